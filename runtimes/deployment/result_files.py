"""Result files, written as requests finish, with resume.

Lines stand in the order in which requests finished; refused requests come first. A file holds whole
lines only: what a failed write left of a line is cut off again, and where the process was killed
in the middle of one, the next run drops what there is of it.

What is kept when a file is taken up again follows from the ids, which are hashes of what was asked:

- an answer is kept if its request is still asked, of the same model in the same weight formats, in
  the same words;
- an answer to anything else is never deleted: the file is refused, with a message;
- a refusal is kept if it would be written again, and dropped otherwise, as its reason is gone.
"""

import contextlib
import os
from collections.abc import Iterable, Iterator
from io import FileIO
from pathlib import Path
from types import TracebackType
from typing import Self

from llmpq_sim.core.errors import ExecutionError, InputError
from llmpq_sim.io.files import check_writable, open_regular, whole_file
from llmpq_sim.io.locks import locked
from runtimes.base import Completion
from runtimes.deployment.generation_config import TextModel
from runtimes.deployment.requests import AcceptedRequest, RejectedRequest, RequestSet
from runtimes.deployment.result_lines import (
    LINE_ID,
    Result,
    UsageTotals,
    completion_id,
    completion_line,
    read_result,
    rejected_id,
    rejected_line,
    usage_totals,
)

LINE_START = f'{{"id": "{LINE_ID}'.encode()


class ResultWriter:
    """A file of results that grows by a line per finished request.

    Use ``open_results``, and the writer as a context: leaving it closes the file.

    Attributes:
        path: the file.
        pending: requests without an answer yet, in the order in which they are asked; a job's
            requests are these.
        totals: of everything in the file.
    """

    def __init__(
        self,
        path: Path,
        stream: FileIO,
        model: TextModel,
        pending: tuple[AcceptedRequest, ...],
        totals: UsageTotals,
        lock: contextlib.ExitStack,
    ) -> None:
        self.path = path
        self.pending = pending
        self.totals = totals
        self._model = model
        self._stream = stream
        self._lock = lock
        self._good_bytes = stream.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def write_completion(self, served: Completion) -> None:
        """Append the answer to a request of ``pending``, which ``served.request`` numbers.

        Raises:
            ExecutionError: it cannot be written; the file keeps its whole lines.
        """
        asked = self.pending[served.request]
        usage = len(asked.tokens.prompt), len(served.tokens)
        result = Result(completion_id(asked, self._model), asked.tokens.name, True, *usage)
        self._append(completion_line(asked, served, self._model), result)

    def write_rejected(self, rejected: RejectedRequest) -> None:
        """Append why a request was refused.

        Raises:
            ExecutionError: it cannot be written; the file keeps its whole lines.
        """
        result = Result(rejected_id(rejected), rejected.name, served=False)
        self._append(rejected_line(rejected), result)

    def close(self) -> None:
        """Close the file once the disk has it, and let other runs write to it.

        Raises:
            ExecutionError: the disk does not take it.
        """
        try:
            if not self._stream.closed:
                os.fsync(self._stream.fileno())
        except OSError as error:
            raise self._failure(error) from None
        finally:
            self._stream.close()
            self._lock.close()

    def _append(self, line: bytes, result: Result) -> None:
        try:
            rest = line
            while rest:  # unbuffered, so that a killed process loses nothing; may write a part
                rest = rest[self._stream.write(rest) :]
        except (OSError, ValueError) as error:  # ValueError: the file is closed
            self._cut_partial_line()
            raise self._failure(error) from None
        self._good_bytes += len(line)
        self.totals = self.totals.plus(result)

    def _cut_partial_line(self) -> None:
        with contextlib.suppress(OSError):  # the write's failure is told, and a resume cuts, too
            os.truncate(self.path, self._good_bytes)

    def _failure(self, error: Exception) -> ExecutionError:
        reason = (isinstance(error, OSError) and error.strerror) or error
        held = self.totals.served
        return ExecutionError(
            f"cannot write {self.path}: {reason}; it holds {held} whole answer"
            f"{'' if held == 1 else 's'}: mend this and go on with --resume"
        )


def open_results(
    path: Path, asked: RequestSet, model: TextModel, *, resume: bool = False
) -> ResultWriter:
    """Return a writer for the answers that a file lacks, with all refusals written already.

    Args:
        path: the file; made if there is none.
        asked: all requests, those of earlier runs among them.
        model: the model asked.
        resume: whether to go on from results that are there.

    Raises:
        InputError: the file cannot be written, is being written by another run, has results
            without ``resume``, or has lines that belong to no request asked.
        ExecutionError: a refusal cannot be written.
    """
    check_writable(path)
    with contextlib.ExitStack() as at_failure:
        lock = at_failure.enter_context(contextlib.ExitStack())
        lock.enter_context(locked(path))
        kept = _keep_results(path, asked, model, resume=resume)
        done = {result.line_id for result in kept}
        pending = tuple(item for item in asked.accepted if completion_id(item, model) not in done)
        stream = at_failure.enter_context(_opened(path))
        writer = ResultWriter(path, stream, model, pending, usage_totals(kept), lock)
        for rejected in asked.rejected:
            if rejected_id(rejected) not in done:
                writer.write_rejected(rejected)
        at_failure.pop_all()
    return writer


# ---- taking up a file again


def _keep_results(
    path: Path, asked: RequestSet, model: TextModel, *, resume: bool
) -> tuple[Result, ...]:
    """Leave only those lines in a file that are still results of what is asked."""
    content = _content(path) if path.exists() else b""
    lines, partial = _whole_lines(content)
    if content and not resume:
        count = len(lines) or "a partial"
        raise InputError(
            f"{path}: expected no such file yet, got one with {count} line"
            f"{'s' if len(lines) > 1 else ''}: give --resume to go on from it, or another --out"
        )
    if partial[: len(LINE_START)] != LINE_START[: len(partial)]:
        raise InputError(
            f"{path.name} line {len(lines) + 1}: expected a result or the beginning of one, got "
            "something else: give another --out"
        )
    kept = _lines_to_keep(path, lines, asked, model)
    _shorten(path, content, b"".join(line for line, _ in kept))
    return tuple(result for _, result in kept)


def _lines_to_keep(
    path: Path, lines: list[bytes], asked: RequestSet, model: TextModel
) -> list[tuple[bytes, Result]]:
    answers = {completion_id(item, model) for item in asked.accepted}
    refusals = {rejected_id(item) for item in asked.rejected}
    kept: dict[str, tuple[bytes, Result]] = {}
    for number, (line, result) in enumerate(_results(path, lines), start=1):
        if result.served and result.line_id not in answers:
            raise _foreign(f"{path.name} line {number}", result, asked)
        if result.served or result.line_id in refusals:
            kept.setdefault(result.line_id, (line, result))
    return list(kept.values())


def _foreign(where: str, result: Result, asked: RequestSet) -> InputError:
    everyone = {item.tokens.name for item in asked.accepted}
    everyone |= {item.name for item in asked.rejected if item.name is not None}
    found = f"the answer to {result.name!r}"
    if result.name in everyone:
        found += ", which is now asked in other words, of another model or in other weight formats"
    else:
        found += ", which is not asked"
    return InputError(
        f"{where}: expected answers to the requests, got {found}: give another --out, or the "
        "requests, the plan, the model and the seed that this file was written for"
    )


def _results(path: Path, lines: Iterable[bytes]) -> Iterator[tuple[bytes, Result]]:
    for number, line in enumerate(lines, start=1):
        yield line, read_result(line, f"{path.name} line {number}")


def _whole_lines(content: bytes) -> tuple[list[bytes], bytes]:
    """Return lines with their ends, and what follows the last end."""
    *lines, partial = content.split(b"\n")
    return [line + b"\n" for line in lines], partial


def _shorten(path: Path, content: bytes, kept: bytes) -> None:
    """Replace a file's content by some of its lines."""
    if content == kept:
        return
    if content.startswith(kept):  # needs no space, which may be what there is none of
        with _opened(path) as stream:
            stream.truncate(len(kept))
        return
    with whole_file(path) as rewritten:
        rewritten.write(kept)


def _content(path: Path) -> bytes:
    try:
        with open_regular(path) as stream:
            return stream.read()
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None


def _opened(path: Path) -> FileIO:
    """Return a file opened for writing at its end; made if there is none."""
    try:
        stream = path.open("r+b" if path.exists() else "xb", buffering=0)
        stream.seek(0, os.SEEK_END)
    except OSError as error:
        raise InputError(f"cannot write {path}: {error.strerror}") from None
    return stream

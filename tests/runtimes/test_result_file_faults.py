"""Faults of result files: failing writes keep whole lines, two runs keep apart."""

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from llmpq_sim.core.errors import ExecutionError, InputError
from runtimes.base import Completion
from runtimes.deployment.result_files import open_results
from tests.runtimes.results_of_tests import ALL, MODEL, NAMES, REFUSED, answer, lines_of, write


@contextmanager
def disk_of(most_bytes: int) -> Iterator[None]:
    """Let no file grow beyond a size: the kernel writes what fits and refuses the rest."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    former = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, former)


def test_a_disk_full_at_any_byte_leaves_whole_lines_and_resuming_does_the_rest(
    tmp_path: Path,
) -> None:
    write(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    path = tmp_path / "out.jsonl"
    for most_bytes in range(0, len(content), 7):
        path.unlink(missing_ok=True)
        with disk_of(most_bytes), pytest.raises(ExecutionError) as caught:
            write(path)
        kept = path.read_bytes()
        assert kept == content[: content.rfind(b"\n", 0, most_bytes) + 1]
        served = kept.count(b'"error": null}\n')
        assert str(caught.value) == (
            f"cannot write {path}: File too large; it holds {served} whole "
            f"answer{'' if served == 1 else 's'}: mend this and go on with --resume"
        )
        write(path, resume=True)
        assert path.read_bytes() == content


def test_writing_after_the_file_was_closed_is_a_failure_that_keeps_its_lines(
    tmp_path: Path,
) -> None:
    path = tmp_path / "out.jsonl"
    writer = open_results(path, ALL, MODEL)
    writer.write_completion(answer(0, writer.pending[0]))
    content = path.read_bytes()
    writer.close()
    with pytest.raises(ExecutionError) as caught:
        writer.write_completion(answer(1, writer.pending[1]))
    assert str(caught.value) == (
        f"cannot write {path}: I/O operation on closed file; it holds 1 whole answer: mend this "
        "and go on with --resume"
    )
    assert path.read_bytes() == content


KILLED_WHILE_WRITING = """
import os, sys
from pathlib import Path
from tests.runtimes.results_of_tests import ALL, MODEL, answer
from runtimes.deployment.result_files import open_results
writer = open_results(Path(sys.argv[1]), ALL, MODEL)
writer.write_completion(answer(0, writer.pending[0]))
os._exit(1)
"""


def test_a_process_that_dies_at_once_has_written_what_was_finished(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    died = subprocess.run(
        [sys.executable, "-c", KILLED_WHILE_WRITING, str(path)],
        cwd=Path(__file__).resolve().parents[2],
        check=False,
    )
    assert died.returncode == 1
    assert [line["custom_id"] for line in lines_of(path)] == ["r", None, "a"]


def test_a_writer_left_by_an_error_is_closed(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    writer = open_results(path, ALL, MODEL)
    with pytest.raises(IndexError), writer:
        writer.write_completion(Completion(len(NAMES), (1,), "length"))
    with pytest.raises(ExecutionError):
        writer.write_rejected(REFUSED[0])
    assert len(lines_of(path)) == len(REFUSED)


@pytest.mark.parametrize("resume", [False, True])
def test_two_runs_do_not_write_to_one_file(tmp_path: Path, resume: bool) -> None:
    path = tmp_path / "out.jsonl"
    with open_results(path, ALL, MODEL) as writer:
        writer.write_completion(answer(0, writer.pending[0]))
        content = path.read_bytes()
        with pytest.raises(InputError) as caught:
            open_results(path, ALL, MODEL, resume=resume)
        assert str(caught.value).startswith(f"{path} is being written by process {os.getpid()} (")
        assert str(caught.value).endswith("); wait for it or choose another --out")
        assert path.read_bytes() == content
    write(path, resume=True)
    assert len(lines_of(path)) == len(REFUSED) + len(NAMES)

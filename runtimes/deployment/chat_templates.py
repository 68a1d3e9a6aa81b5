"""Chat templates, rendered in a process of their own.

A template is a program that a model folder brings. jinja's sandbox keeps it from the system, not
from taking all time and memory, so it is limited in both, and whatever it does, only the request
for which it was rendered is refused.
"""

import atexit
import json
import os
import select
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from time import monotonic
from typing import Any

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.limits import (
    LARGEST_FILE_BYTES,
    MOST_TEMPLATE_ENDS,
    TEMPLATE_CPU_S,
    TEMPLATE_WALL_S,
)
from runtimes.deployment import template_worker

Message = Mapping[str, str]
"""One turn of a conversation: its ``role`` and its ``content``."""

PIECE_BYTES = 1 << 16


class ChatTemplate:
    """A model's chat template.

    Attributes:
        text: what jinja takes.
        tokens: special tokens by the names that the template calls them by.
        cpu_s: processor time that a conversation may take.
    """

    def __init__(
        self, text: str, tokens: Mapping[str, object], cpu_s: int = TEMPLATE_CPU_S
    ) -> None:
        self.text = text
        self.tokens = dict(tokens)
        self.cpu_s = cpu_s
        self._ends = 0

    def render(self, messages: Sequence[Message]) -> str:
        """Return a conversation written down, up to where the model is to answer.

        Raises:
            InputError: the template refuses the messages, fails, or takes too long.
        """
        if self._ends >= MOST_TEMPLATE_ENDS:
            raise InputError(f"the chat template took too long {self._ends} times; given up")
        asked = {
            "template": self.text,
            "tokens": self.tokens,
            "messages": [dict(message) for message in messages],
            "cpu_s": self.cpu_s,
        }
        answer = _renderer().answer(asked)
        if answer is None:
            self._ends += 1
            raise InputError(
                f"the chat template took more than {self.cpu_s} s, or more memory than it may"
            )
        if "text" in answer:
            return str(answer["text"])
        if "refused" in answer:
            raise InputError(f"the chat template refuses the messages: {answer['refused']}")
        raise InputError(f"the chat template fails: {answer['failed']}")


class _Renderer:
    """The process, started when first asked, and again after it ended."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None

    def answer(self, asked: dict[str, Any]) -> dict[str, Any] | None:
        """Return the answer to a line, or None where the process ended over it."""
        process = self._process or self._started()
        try:
            assert process.stdin is not None  # noqa: S101
            process.stdin.write(json.dumps(asked).encode() + b"\n")
            process.stdin.flush()
            return self._line(process)
        except (OSError, EOFError, ValueError):  # it ended, or wrote no whole line in time
            self.stop()
            return None
        except BaseException:  # an answer that nobody waits for would be taken for the next one
            self.stop()
            raise

    def _started(self) -> "subprocess.Popen[bytes]":
        """Start the process; only once it is there can a template be what ends it."""
        root = str(Path(template_worker.__file__).parents[2])
        paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
        self._process = subprocess.Popen(
            [sys.executable, "-m", template_worker.__name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": paths},
        )
        try:
            self._line(self._process)
        except (OSError, EOFError, ValueError) as error:
            self.stop()
            raise InputError(
                f"chat templates need a process, which does not start: {error}"
            ) from None
        return self._process

    def _line(self, process: "subprocess.Popen[bytes]") -> dict[str, Any]:
        """Return the next line of the process.

        Raises:
            EOFError: it ended.
            TimeoutError: it took too long; what its processor time does not limit, this does.
            ValueError: the line is larger than any prompt.
        """
        assert process.stdout is not None  # noqa: S101
        number, size_bytes = process.stdout.fileno(), 0
        pieces: list[bytes] = []
        latest_s = monotonic() + TEMPLATE_WALL_S
        while not (pieces and pieces[-1].endswith(b"\n")):
            left_s = latest_s - monotonic()
            if left_s <= 0 or not select.select([number], [], [], left_s)[0]:
                raise TimeoutError
            pieces.append(os.read(number, PIECE_BYTES))
            size_bytes += len(pieces[-1])
            if not pieces[-1]:
                raise EOFError("it ended")
            if size_bytes > LARGEST_FILE_BYTES:
                raise ValueError("it wrote too much")
        line: dict[str, Any] = json.loads(b"".join(pieces))
        return line

    def stop(self) -> None:
        """End the process, if there is one."""
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            with process:  # closes its pipes and waits for it
                pass


def stop_rendering() -> None:
    """End the process, for nothing more is to be rendered soon; another call starts it anew."""
    _renderer().stop()


@cache
def _renderer() -> _Renderer:
    """Return the renderer of this process, which ends with it."""
    renderer = _Renderer()
    atexit.register(renderer.stop)
    return renderer

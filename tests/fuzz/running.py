"""A run of the fuzzer: inputs are tried until a time is over, and faults are told."""

import resource
import signal
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from time import monotonic
from types import FrameType
from typing import NoReturn

from llmpq_sim.core.errors import LlmpqError
from llmpq_sim.core.units import MIB
from tests.fuzz.inputs import Kind

MOST_CPU_S = 5.0
MOST_BYTES = 2048 * MIB
"""Address space that may be taken beyond what is there once the libraries are loaded."""


class TooSlowError(BaseException):
    """An input took longer than any may; no reader is to catch it."""


@dataclass(frozen=True)
class Fault:
    """An input that was neither read nor refused.

    Attributes:
        kind: what was read.
        seed: of the input.
        content: the input.
        error: what came of it.
    """

    kind: str
    seed: int
    content: bytes
    error: str


def run_for(
    seconds: float, kinds: list[Kind], seed: int, on_fault: Callable[[Fault], object]
) -> int:
    """Return how many inputs were tried, the kinds in turn; each fault is told of at once."""
    tried, latest_s = 0, monotonic() + seconds
    with tempfile.TemporaryDirectory(prefix="llmpq-fuzz-") as folder, limited_memory():
        while monotonic() < latest_s:
            kind = kinds[tried % len(kinds)]
            number = seed * 1_000_000_000 + tried
            content = kind.made(Random(number))
            error = outcome(kind, content, Path(folder))
            tried += 1
            if error is not None:
                on_fault(Fault(kind.name, number, content, error))
    return tried


def outcome(kind: Kind, content: bytes, folder: Path) -> str | None:
    """Return what is wrong with how an input is answered, None where it is read or refused."""
    try:
        with limited_time(), warnings.catch_warnings():
            warnings.simplefilter("error")
            kind.use(folder, content)
    except LlmpqError as error:
        return _wrong_message(str(error))
    except TooSlowError:
        return f"took more than {MOST_CPU_S:g} s"
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        return "".join(traceback.format_exception(error)[-3:])
    return None


def _wrong_message(message: str) -> str | None:
    if not message or len(message) > 3000:
        return f"a message of {len(message)} characters"
    try:
        message.encode()
    except UnicodeEncodeError:
        return "a message that cannot be encoded"
    return None


@contextmanager
def limited_time() -> Iterator[None]:
    """Interrupt what takes longer than any input may."""

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        raise TooSlowError

    before = signal.signal(signal.SIGPROF, interrupt)
    signal.setitimer(signal.ITIMER_PROF, MOST_CPU_S)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def limited_memory() -> Iterator[None]:
    """Let no more address space be taken than the limit, so that a large one is an error."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    taken = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    most = taken * resource.getpagesize() + MOST_BYTES
    resource.setrlimit(resource.RLIMIT_AS, (most, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)

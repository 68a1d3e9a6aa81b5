"""Faults while a file is saved: at the n-th call, for each n, the old file or the new one is there.

What is saved passes through ``whole_file`` and ``write_text``; every call of the system that they
make is let fail in turn, as a full disk, a failing one or an interrupt would, and so is every
allocation that rendering makes.
"""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.files import read_json, write_json

ROOT = Path(__file__).parents[2]
OLD, NEW = {"old": [1, 2, 3]}, {"new": [{"a": 1.5}] * 50}
CALLS = ("open", "write", "flush", "fsync", "replace")
FAULTS: tuple[BaseException, ...] = (
    OSError(errno.ENOSPC, "No space left on device"),
    OSError(errno.EIO, "Input/output error"),
    MemoryError(),
    KeyboardInterrupt(),
)


class Failing:
    """Counts calls, and raises at one of them, after the call was half done where it can be."""

    def __init__(self, at: int, fault: BaseException) -> None:
        self.at, self.fault, self.calls = at, fault, 0

    def __call__(self, halfway: Callable[[], object]) -> None:
        self.calls += 1
        if self.calls == self.at:
            halfway()
            raise self.fault


class Stream:
    """A file of which each write, flush and close is counted."""

    def __init__(self, stream: Any, failing: Failing) -> None:
        self.stream, self.failing = stream, failing

    def __enter__(self) -> "Stream":
        return self

    def __exit__(self, *_: object) -> None:
        self.stream.close()

    def write(self, content: bytes) -> int:
        self.failing(lambda: self.stream.write(content[: len(content) // 2]))
        return int(self.stream.write(content))

    def flush(self) -> None:
        self.failing(self.stream.flush)
        self.stream.flush()

    def fileno(self) -> int:
        return int(self.stream.fileno())


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Callable[[Failing], None]:
    def put(failing: Failing) -> None:
        open_file, replace, sync = Path.open, Path.replace, os.fsync

        def opened(path: Path, *arguments: Any, **others: Any) -> Any:
            failing(lambda: None)
            return Stream(open_file(path, *arguments, **others), failing)

        def replaced(path: Path, target: Path) -> Path:
            failing(lambda: None)
            return replace(path, target)

        def synced(number: int) -> None:
            failing(lambda: None)
            sync(number)

        monkeypatch.setattr(Path, "open", opened)
        monkeypatch.setattr(Path, "replace", replaced)
        monkeypatch.setattr(os, "fsync", synced)

    return put


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__ + str(fault)[:10])
@pytest.mark.parametrize("before", [None, OLD])
@pytest.mark.parametrize("number", range(1, len(CALLS) + 1))
def test_a_fault_at_the_nth_call_leaves_the_old_file(
    tmp_path: Path,
    fails: Callable[[Failing], None],
    fault: BaseException,
    before: object,
    number: int,
) -> None:
    path = tmp_path / "plan.json"
    if before is not None:
        write_json(path, before)
    fails(Failing(number, fault))
    expected = InputError if isinstance(fault, OSError) else type(fault)
    with pytest.raises(expected) as caught:
        write_json(path, NEW)
    if isinstance(fault, OSError):
        assert str(caught.value) == f"cannot write {path}: {fault.strerror}"
    assert [each.name for each in tmp_path.iterdir()] == ([] if before is None else ["plan.json"])
    if before is not None:
        assert read_json(path) == before


def test_after_the_last_call_the_new_file_is_there(
    tmp_path: Path, fails: Callable[[Failing], None]
) -> None:
    path, failing = tmp_path / "plan.json", Failing(0, KeyboardInterrupt())
    fails(failing)
    write_json(path, NEW)
    assert failing.calls == len(CALLS)
    assert read_json(path) == NEW


ALLOCATING = """
import resource, sys
from pathlib import Path
from llmpq_sim.io.files import write_json
path, extra = Path(sys.argv[1]), int(sys.argv[2])
content = {"new": [{"text": "x" * 100, "number": number} for number in range(20_000)]}
taken = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (taken + extra, resource.RLIM_INFINITY))
try:
    write_json(path, content)
except MemoryError:
    sys.exit(3)
"""


def test_a_failing_allocation_leaves_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path, codes = tmp_path / "plan.json", []
    for extra in (0, 1 << 20, 2 << 20, 4 << 20, 8 << 20, 64 << 20):
        write_json(path, OLD)
        run = subprocess.run(
            [sys.executable, "-c", ALLOCATING, str(path), str(extra)],
            check=False,
            cwd=ROOT,
            capture_output=True,
        )
        codes.append(run.returncode)
        content = read_json(path)
        assert isinstance(content, dict)
        if run.returncode == 0:
            assert len(content["new"]) == 20_000
        else:
            assert content == OLD
        assert [each.name for each in tmp_path.iterdir()] == ["plan.json"]
    assert codes[-1] == 0
    assert 3 in codes

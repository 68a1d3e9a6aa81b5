"""That whatever ends a command ends it with one line and an exit code."""

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmpq_sim.commands.guard import Failure, failure, guarded
from llmpq_sim.core.errors import InfeasibleError, InputError

ROOT = Path(__file__).parents[2]


def raising(error: BaseException) -> Callable[[], object]:
    def run() -> object:
        raise error

    return run


def told_of(error: BaseException) -> tuple[str, int]:
    told: list[Failure] = []
    code = guarded(raising(error), told.append)
    assert [each.exit_code for each in told] == [code]
    assert "\n" not in told[0].shown
    return told[0].message, code


@pytest.fixture(autouse=True)
def reports(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize(
    ("error", "message", "code"),
    [
        (InputError("plan.json: no"), "plan.json: no", 1),
        (InfeasibleError("no room"), "no room", 1),
        (KeyboardInterrupt(), "interrupted; nothing was written", 130),
        (MemoryError(), "not enough memory: ask for less, or give the machine more", 1),
        (
            ImportError("x.so: failed to map segment: Cannot allocate memory"),
            "not enough memory: ask for less, or give the machine more",
            1,
        ),
        (BrokenPipeError(32, "Broken pipe"), "stdout was closed before all was written", 1),
        (OSError(28, "No space left on device"), "cannot write: No space left on device", 1),
        (
            OSError(28, "No space left on device", "/tmp/\udcff"),
            "cannot write /tmp/\\xff: No space left on device",
            1,
        ),
        (OSError(36, "File name too long", "a"), "cannot use a: File name too long", 1),
        (PermissionError(13, "Permission denied", "/a"), "cannot use /a: Permission denied", 1),
    ],
)
def test_what_was_foreseen_is_a_line(
    error: BaseException, message: str, code: int, reports: Path
) -> None:
    assert told_of(error) == (message, code)
    assert list(reports.iterdir()) == []


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        (ZeroDivisionError("division\nby zero"), "(ZeroDivisionError: division by zero)"),
        (RecursionError("maximum depth"), "(something is nested too deeply: maximum depth)"),
        (AssertionError(), "(AssertionError)"),
        (ValueError("\udcff" + "x" * 999), "..."),
        (GeneratorExit(), "(GeneratorExit)"),
    ],
)
def test_what_nobody_foresaw_is_a_line_and_a_report(
    error: BaseException, shown: str, reports: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["llmpq", "--api-key", "abc", "--token=def", "s3://me:pw@host", "hf_abcdefghij"]
    monkeypatch.setattr(sys, "argv", [*arguments, "--token-budget", "9", "r\udcff.jsonl"])
    message, code = told_of(error)
    assert code == 70
    assert message.startswith("a fault of llmpq's own (")
    assert shown in message
    report = Path(message.rpartition(" with ")[2])
    assert list(reports.iterdir()) == [report]
    assert report.stat().st_mode & 0o077 == 0
    content = report.read_text(encoding="utf-8")
    assert "Traceback (most recent call last)" in content
    assert "llmpq --api-key … --token=… s3://…@host … --token-budget 9 'r\\xff.jsonl'" in content


def test_without_a_place_for_the_report_the_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", "/nowhere")
    found = failure(ZeroDivisionError())
    assert (found.kind, found.exit_code) == ("InternalError", 70)
    assert found.message.endswith("(a report cannot be written: No such file or directory)")


@pytest.mark.parametrize(("returned", "expected"), [(None, 0), (0, 0), (2, 2)])
def test_a_command_returns_its_exit_code(returned: int | None, expected: int) -> None:
    assert guarded(lambda: returned, lambda _: None) == expected


def shell(command: str, **environment: str) -> "subprocess.CompletedProcess[str]":
    run = f"{sys.executable} -c 'from cli import main; main()'"
    return subprocess.run(
        ["/bin/bash", "-c", f"set -o pipefail; {command.replace('llmpq', run)}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={"PATH": "/usr/bin:/bin", **environment},
    )


@pytest.mark.parametrize(
    ("command", "stderr"),
    [
        ("llmpq list clusters >&-", "error: stdout is closed: give it a file, or /dev/null\n"),
        ("llmpq list clusters >/dev/full", "error: cannot write: No space left on device\n"),
        ("llmpq list clusters --json >/dev/full", "error: cannot write: No space left on device\n"),
        ("llmpq list clusters >&- 2>&-", ""),
        ("llmpq list clusters >/dev/full 2>/dev/full", ""),
    ],
)
def test_output_that_goes_nowhere_is_told_of(command: str, stderr: str) -> None:
    run = shell(command)
    assert (run.returncode, run.stderr) == (1, stderr)


def test_a_reader_that_leaves_early_is_no_fault() -> None:
    run = shell("for i in 1 2; do llmpq list clusters; done | head -n 1")
    assert run.returncode in {0, 1}
    assert not re.search("Traceback|Exception", run.stderr)


@pytest.mark.parametrize("streams", ["<&-", "2>&-", "<&- 2>&-"])
def test_closed_streams_that_are_not_needed_are_no_fault(streams: str) -> None:
    run = shell(f"llmpq list formats {streams}")
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout == shell("llmpq list formats").stdout

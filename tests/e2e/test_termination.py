"""SIGTERM ends every long command with its cleanup and a line; a second run names the first."""

import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import sleep

import psutil
import pytest

from tests.e2e.commands import LLMPQ, llmpq
from tests.runtimes.quality_subjects import save_subject

PATIENCE_S = 120.0
"""For what takes seconds on an idle machine."""

COMMANDS = {
    "search": (
        *("search", "--model", "llama-3.1-70b", "--cluster", "h200-l40s", "--trace", "azure-conv"),
        *("--requests", "300", "--slo-ttft-ms", "2000", "--quality-at-least", "int4"),
        *("--out", "plan.json"),
    ),
    "profile": ("profile", "--quick", "--model", "opt-125m", "--out", "rows.csv"),
    "quality": (
        *("quality", "model", "--text", "text.txt", "--window-tokens", "24", "--check", "40"),
        *("--out", "quality.json"),
    ),
}
OUTS = {"search": "plan.json", "profile": "rows.csv", "quality": "quality.json"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminated")
    save_subject(folder)
    return folder


@contextmanager
def held(folder: Path, arguments: tuple[str, ...]) -> Iterator[subprocess.Popen[str]]:
    """Run a command in the background; give it, stopped, once its lock names it."""
    running = subprocess.Popen(
        [str(LLMPQ), *arguments],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        while not any(lock.stat().st_size for lock in folder.glob(".llmpq-*.lock")):
            assert running.poll() is None, running.communicate()
            sleep(0.01)
        running.send_signal(signal.SIGSTOP)
        yield running
    finally:
        running.kill()
        running.communicate()


@pytest.mark.parametrize("command", COMMANDS)
def test_the_second_run_names_the_first_which_ends_in_order(folder: Path, command: str) -> None:
    arguments, out = COMMANDS[command], OUTS[command]
    with held(folder, arguments) as running:
        second = llmpq(*arguments, cwd=folder)
        assert second.returncode == 1
        assert second.stderr.startswith(f"error: {out} is being written by process {running.pid} (")
        assert f"(llmpq {command} " in second.stderr
        assert second.stderr.endswith("; wait for it or choose another --out\n")
        assert second.stderr.count("\n") == 1
        helpers = psutil.Process(running.pid).children(recursive=True)
        running.send_signal(signal.SIGTERM)
        running.send_signal(signal.SIGCONT)
        _, told = running.communicate(timeout=PATIENCE_S)
    assert running.returncode == 143, told
    assert told.splitlines()[-1].startswith("interrupted; ")
    _, left = psutil.wait_procs(helpers, timeout=PATIENCE_S)
    assert left == []
    assert list(folder.glob(".llmpq-*")) == []


def test_a_killed_run_is_no_obstacle(folder: Path) -> None:
    with held(folder, COMMANDS["profile"]) as running:
        running.kill()
        running.wait()
    assert len(list(folder.glob(".llmpq-*.lock"))) == 1
    again = llmpq("profile", "--device", "abacus", "--out", "rows.csv", cwd=folder)
    assert again.returncode == 1
    assert "--device" in again.stderr
    assert list(folder.glob(".llmpq-*")) == []

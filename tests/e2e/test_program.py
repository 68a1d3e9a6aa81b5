"""The program itself: how it starts, what it says of wrong usage, interruptions and encodings."""

import json
import os
import signal
import subprocess
import sys
import tomllib
from pathlib import Path
from time import monotonic, sleep

import pytest

import llmpq_sim
from runtimes.commands.installed import INSTALL_TORCH, TORCH_PACKAGES
from tests.e2e.commands import LLMPQ, llmpq

ROOT = Path(__file__).resolve().parents[2]
SMALL = (
    "search", "--model", "opt-125m", "--cluster", "paper-9", "--kernels", "spec",
    "--batch", "4", "--prompt-tokens", "32", "--output-tokens", "8", "--generations", "0",
    "--quality-at-least", "int8",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a plan."""
    made = tmp_path_factory.mktemp("program")
    done = llmpq(*SMALL, cwd=made)
    assert done.returncode == 0, done.stderr
    return made


def test_the_version_is_that_of_the_project(tmp_path: Path) -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert stated["version"] == llmpq_sim.__version__
    module = subprocess.run(
        [sys.executable, "-m", "llmpq", "--version"], cwd=tmp_path, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert (
        module.stdout == llmpq("--version", cwd=tmp_path).stdout == f"llmpq {stated['version']}\n"
    )


def test_help_has_a_short_name_everywhere_and_an_example(tmp_path: Path) -> None:
    whole = llmpq("-h", cwd=tmp_path)
    assert whole.stdout == llmpq("--help", cwd=tmp_path).stdout
    assert "Exit codes: 0 done" in whole.stdout
    of_command = llmpq("search", "-h", cwd=tmp_path).stdout
    assert "How requests over time are read:\n  --requests" in of_command
    assert "\nExample:\n  llmpq search --model" in of_command


def test_a_folder_of_the_name_of_a_package_is_not_taken_for_it(tmp_path: Path) -> None:
    (tmp_path / "runtimes").mkdir()
    (tmp_path / "runtimes" / "__init__.py").write_text("raise SystemExit('wrong one')\n")
    done = subprocess.run(
        [sys.executable, "-m", "llmpq", "list", "formats"], cwd=tmp_path, capture_output=True,
        text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


def test_failures_are_json_where_json_is_asked_for(folder: Path) -> None:
    refused = llmpq("simulate", "nothing.json", "--json", cwd=folder)
    assert refused.returncode == 1
    message = "cannot read nothing.json: No such file or directory"
    assert json.loads(refused.stdout) == {"error": {"message": message, "kind": "InputError"}}
    assert refused.stderr == f"error: {message}\n"
    usage = llmpq("simulate", "--jsom", "--json", cwd=folder)
    assert usage.returncode == 2
    told = json.loads(usage.stdout)["error"]
    assert told["kind"] == "UsageError"
    assert told["message"].startswith("No such option: --jsom")


def test_a_plan_is_not_overwritten_unless_told(folder: Path) -> None:
    before = (folder / "plan.json").read_bytes()
    refused = llmpq(*SMALL, "--seed", "1", cwd=folder)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == (
        "error: plan.json exists already: --force overwrites it, --out writes another file\n"
    )
    assert (folder / "plan.json").read_bytes() == before
    assert llmpq(*SMALL, "--force", cwd=folder).returncode == 0
    assert (folder / "plan.json").read_bytes() == before


def test_resuming_without_a_checkpoint_begins_anew_and_says_so(folder: Path) -> None:
    before = (folder / "plan.json").read_bytes()
    begun = llmpq(*SMALL, "--resume", cwd=folder)
    assert begun.returncode == 0, begun.stderr
    assert "no checkpoint plan.json.checkpoint.json to go on from" in begun.stdout
    assert (folder / "plan.json").read_bytes() == before


def test_a_plan_that_does_not_fit_fails_and_says_why(tmp_path: Path) -> None:
    tight = ("search", "--model", "opt-13b", "--cluster", "paper-1", *SMALL[5:], "--force")
    folder, batch = tmp_path, ("--batch", "400", "--prompt-tokens", "1900")
    assert llmpq(*tight, "--batch", "400", cwd=folder).returncode == 0
    shown = llmpq("simulate", "plan.json", *batch, cwd=folder)
    assert shown.returncode == 1
    assert shown.stderr.startswith("error: plan.json: does not fit: stage 0 on ")
    assert shown.stderr.count("\n") == 1
    assert "memory" in shown.stdout
    asked = llmpq("simulate", "plan.json", *batch, "--json", cwd=folder)
    assert asked.returncode == 1
    content = json.loads(asked.stdout)
    assert content["error"]["kind"] == "InfeasibleError"
    assert asked.stderr == f"error: plan.json: {content['error']['message']}\n"
    assert content["makespan_s"] is None
    assert content["stage_memory_bytes"][0] > content["stage_memory_limit_bytes"][0]


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252", "utf-8"])
def test_every_encoding_shows_a_simulation(
    folder: Path, monkeypatch: pytest.MonkeyPatch, encoding: str
) -> None:
    monkeypatch.setenv("PYTHONIOENCODING", encoding)
    done = subprocess.run(
        [str(LLMPQ), "simulate", "plan.json"], cwd=folder, capture_output=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, b"")
    text = done.stdout.decode(encoding)
    assert "█" in text if encoding == "utf-8" else "#" in text
    assert "tokens/s" in text


def test_the_extra_for_pytorch_is_what_the_message_names() -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert stated["optional-dependencies"]["torch"] == list(TORCH_PACKAGES)


@pytest.mark.parametrize(
    ("arguments", "doing"),
    [
        (("profile",), "llmpq profile times kernels"),
        (("quality", "."), "llmpq quality measures"),
        (("demo",), "llmpq demo profiles and serves"),
        (("deploy", "plan.json"), "llmpq deploy computes"),
    ],
)
def test_without_pytorch_a_command_says_how_to_install_it(
    folder: Path, tmp_path: Path, arguments: tuple[str, ...], doing: str
) -> None:
    hide = "import sys\nsys.modules['torch'] = None\n"
    (tmp_path / "sitecustomize.py").write_text(hide, encoding="utf-8")
    before = sorted(folder.iterdir())
    done = subprocess.run(
        [str(LLMPQ), *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"error: {doing} with PyTorch, and torch is not installed: {INSTALL_TORCH}\n"
    )
    assert sorted(folder.iterdir()) == before


def interrupted(folder: Path, *arguments: str, ready: Path | None = None) -> tuple[int, str]:
    """Return how a command ends that is interrupted once a file is there, or has begun."""
    running = subprocess.Popen(
        [str(LLMPQ), *arguments], cwd=folder, text=True, stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    end_s = monotonic() + 120
    try:
        while ready is not None and not ready.exists():
            assert running.poll() is None, running.communicate()
            assert monotonic() < end_s
            sleep(0.02)
        os.kill(running.pid, signal.SIGINT)
        _, told = running.communicate(timeout=60)
    finally:
        running.kill()
        running.communicate()
    return running.returncode, told


def test_an_interrupted_search_keeps_the_best_plan_so_far(tmp_path: Path) -> None:
    large = (
        "search", "--model", "opt-30b", "--cluster", "paper-9", "--kernels", "spec",
        "--quality-at-least", "int8", "--pareto", "--generations", "100000",
    )  # fmt: skip
    ready = tmp_path / "plan.json.checkpoint.json"
    code, told = interrupted(tmp_path, *large, ready=ready)
    assert told == "interrupted; the best plan so far is in plan.json, --resume goes on\n"
    assert code == 130
    assert llmpq("simulate", "plan.json", cwd=tmp_path).returncode == 0
    refused = llmpq(*large, cwd=tmp_path)
    assert "--resume goes on with its search" in refused.stderr

"""Quality by the installed command: layers measured, a plan made of them, the plan measured."""

import json
import signal
import subprocess
from pathlib import Path
from time import monotonic, sleep
from typing import Any

import pytest

from llmpq_sim.io.quality import load_quality
from tests.e2e.commands import LLMPQ, called, llmpq
from tests.e2e.test_deploy import CLUSTER
from tests.runtimes.quality_subjects import save_subject

QUICK = ("--text", "text.txt", "--window-tokens", "24", "--windows", "4")
SEARCH = (
    *("search", "--model", "model", "--cluster", "two.yaml", "--batch", "4"),
    *("--prompt-tokens", "16", "--output-tokens", "12", "--generations", "2"),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a tiny model, a text, its measured quality, and a plan made with it."""
    folder = tmp_path_factory.mktemp("quality")
    save_subject(folder)
    (folder / "two.yaml").write_text(CLUSTER, encoding="utf-8")
    found = llmpq("quality", "model", *QUICK, "--check", "3", "--out", "q.json", cwd=folder)
    assert found.returncode == 0, found.stderr
    (folder / "stdout.txt").write_text(found.stdout, encoding="utf-8")
    (folder / "stderr.txt").write_text(found.stderr, encoding="utf-8")
    found = llmpq(*SEARCH, "--quality", "q.json", "--max-kl", "0.05", cwd=folder)
    assert found.returncode == 0, found.stderr
    return folder


def test_losses_are_written_and_shown(folder: Path) -> None:
    measured = load_quality(folder / "q.json")
    assert measured.method == "kl"
    assert [(row.layer, row.format) for row in measured.rows] == [
        (layer, name) for layer in range(4) for name in ("int3", "int4", "int8")
    ]
    assert not (folder / "q.json.work").exists()
    said = (folder / "stderr.txt").read_text(encoding="utf-8").splitlines()
    assert said[0].startswith("15 assignments of formats on 4 windows of 24 tokens: ")
    assert "passes of a layer, as much work as " in said[0]
    assert said[1].startswith("the first layer is timed: about ")
    shown = (folder / "stdout.txt").read_text(encoding="utf-8").splitlines()
    assert shown[0].startswith("model: nats of KL per token, perplexity ")
    assert "Wrote q.json. Next:" in shown


def test_a_plan_that_was_made_with_it_is_measured(folder: Path) -> None:
    found = llmpq("quality", "model", *QUICK, "--plan", "plan.json", "--json", cwd=folder)
    assert found.returncode == 0, found.stderr
    content = json.loads(found.stdout)
    assert content["schema"] == "llmpq/quality-check"
    assert content["predicted"]["measure"] == "nats of KL per token"
    assert content["predicted"]["budget"] == 0.05
    measured, predicted = content["measured"]["kl_nats"], content["predicted"]["loss"]
    assert measured == pytest.approx(predicted, rel=0.3)
    assert not content["misses_target"]


def test_a_plan_that_misses_its_target_is_flagged(folder: Path) -> None:
    plan = json.loads((folder / "plan.json").read_text(encoding="utf-8"))
    for stage in plan["plan"]["stages"]:
        stage["formats"] = ["int4"] * len(stage["formats"])
    plan["plan"]["stages"][-1]["formats"][-1] = "int3"
    (folder / "edited.json").write_text(json.dumps(plan), encoding="utf-8")
    found = llmpq("quality", "model", *QUICK, "--plan", "edited.json", cwd=folder)
    assert found.returncode == 1
    last = found.stderr.splitlines()[-1]
    assert last.startswith("error: the plan misses its target: ")
    assert "at most 0.0500 ± " in last
    assert found.stdout.splitlines()[0].endswith(" nats of KL per token, measured")
    assert not (folder / "edited.json.work").exists()


def test_an_indicator_takes_one_pass(folder: Path) -> None:
    options = ("--method", "variance", "--out", "v.json", "--formats", "int4,int8", "--json")
    found = llmpq("quality", "model", *QUICK, *options, cwd=folder)
    assert found.returncode == 0, found.stderr
    assert found.stderr.startswith("4 windows of 24 tokens: 4 passes of a layer, one forward pass")
    content = json.loads(found.stdout)
    assert content["quality_file"] == "v.json"
    measured = load_quality(folder / "v.json")
    assert (measured.method, len(measured.rows)) == ("variance", 8)
    assert content["totals"]["int4"]["loss"] == pytest.approx(
        sum(row.loss or 0.0 for row in measured.rows if row.format == "int4")
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("missing",), "error: MODEL_DIR: expected the folder of a model, there is none at miss"),
        (
            ("model", "--text", "none.txt", "--window-tokens", "24"),
            "error: cannot read none.txt: No such file or directory",
        ),
        (("model", "--out", "nowhere/q.json"), "error: cannot write nowhere/q.json: there is no"),
        (("model", "--formats", "fp16"), "error: --formats: expected quantized formats"),
        (("model", "--quantizer", "gptq"), "error: --quantizer: expected a quantizer"),
        (("model", "--plan", "plan.json", "--formats", "int4"), "error: --formats: goes without"),
        (("model", "--method", "hessian", "--resume"), "error: --resume: goes with --method kl"),
    ],
    ids=["folder", "text", "out", "formats", "quantizer", "plan", "resume"],
)
def test_what_is_wrong_is_one_line(folder: Path, options: tuple[str, ...], said: str) -> None:
    found = called("quality", *options, cwd=folder)
    assert found.returncode == 1
    assert found.stdout == ""
    assert len(found.stderr.splitlines()) == 1
    assert found.stderr.startswith(said)


@pytest.mark.parametrize("end", [signal.SIGKILL, signal.SIGINT])
def test_a_measurement_that_was_ended_is_taken_up_again(
    tmp_path: Path, end: signal.Signals
) -> None:
    save_subject(tmp_path, layers=8)
    options = ("--window-tokens", "64", "--windows", "8", "--check", "1", "--formats", "int4")
    work = tmp_path / "q.json.work"
    command = [str(LLMPQ), "quality", "model", *options, "--out", "q.json"]
    running = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    wait_for(work / "progress.json", running)
    running.send_signal(end)
    _, said = running.communicate(timeout=60)
    assert running.returncode == (130 if end == signal.SIGINT else -end)
    if end == signal.SIGINT:
        kept = "whole layers are kept in q.json.work, --resume does the rest"
        assert said.splitlines()[-1] == f"interrupted; {kept}"
    assert not (tmp_path / "q.json").exists()
    again = llmpq("quality", "model", *options, "--out", "q.json", cwd=tmp_path)
    assert again.returncode == 1
    assert "holds an interrupted run; go on with --resume" in again.stderr
    again = llmpq("quality", "model", *options, "--out", "q.json", "--resume", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    assert not work.exists()
    whole = llmpq("quality", "model", *options, "--out", "whole.json", cwd=tmp_path)
    assert whole.returncode == 0, whole.stderr
    assert timeless(tmp_path / "q.json") == timeless(tmp_path / "whole.json")


def wait_for(progress: Path, running: "subprocess.Popen[str]") -> None:
    """Wait until the first layer is done, a small part of all passes."""
    until = monotonic() + 120
    while running.poll() is None and monotonic() < until:
        if progress.exists() and json.loads(progress.read_text(encoding="utf-8"))["layers"] >= 1:
            return
        sleep(0.01)
    raise AssertionError(f"it ended with {running.poll()} before it could be interrupted")


def timeless(path: Path) -> dict[str, Any]:
    """Return what a file of losses says, but for how long they took."""
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    place = content["columns"].index("seconds")
    content["rows"] = [[*row[:place], *row[place + 1 :]] for row in content["rows"]]
    return content

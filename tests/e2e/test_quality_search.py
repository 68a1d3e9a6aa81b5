"""Searches with measured losses through the installed command: good input and bad."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.io.models import load_model
from llmpq_sim.io.plans import load_plan
from llmpq_sim.io.quality import write_quality
from tests.e2e.commands import called, llmpq
from tests.qualities import Columns, as_indicator, measured_quality

MODEL = load_model("opt-125m")
SEARCH = (
    "search", "--model", "opt-125m", "--cluster", "t4-v100-a100", "--kernels", "spec",
    "--batch", "4", "--prompt-tokens", "64", "--output-tokens", "8", "--workers", "1",
    "--generations", "5",
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quality")
    measured = measured_quality(MODEL)
    write_quality(path / "q.json", measured)
    write_quality(path / "v.json", as_indicator(measured, "variance"))
    write_quality(path / "other.json", replace(measured, shape_sha256="0" * 64, model_name="x"))
    return path


def content_of(*arguments: str, cwd: Path) -> dict[str, Any]:
    done = llmpq(*arguments, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert isinstance(loaded, dict)
    return loaded


def test_a_plan_keeps_a_budget_of_measured_nats_and_needs_no_file_afterwards(folder: Path) -> None:
    found = content_of(*SEARCH, "--quality", "q.json", "--max-kl", "0.03", cwd=folder)
    quality = found["quality"]
    assert quality["measure"] == "nats of KL per token"
    assert quality["loss"] <= quality["budget"] == 0.03
    assert quality["interval"] > 0
    assert quality["perplexity"] == pytest.approx(math.exp(3.0 + quality["loss"]))
    (folder / "q.json").rename(folder / "gone.json")
    try:
        simulated = content_of("simulate", "plan.json", cwd=folder)
        verified = content_of("verify", "plan.json", cwd=folder)
    finally:
        (folder / "gone.json").rename(folder / "q.json")
    assert simulated["quality"] == quality
    assert verified["bound_s"] == found["bound"]["makespan_s"]
    saved = load_plan(folder / "plan.json", {})
    assert saved.target.measured == measured_quality(MODEL)
    assert saved.quantizers == {"int8": "rtn", "int4": "rtn", "int3": "rtn"}


def test_screens_name_the_unit_and_the_risk(folder: Path) -> None:
    wanted = ("--quality", "q.json", "--max-perplexity-increase", "0.17", "--pareto")
    shown = llmpq(*SEARCH, *wanted, "--out", "p.json", cwd=folder)
    assert shown.returncode == 0, shown.stderr
    assert "nats of KL per token (budget 0.0084)" in shown.stdout
    assert "perplexity about 20." in shown.stdout
    assert "The plan may miss the target: check with llmpq quality MODEL_DIR" in shown.stdout
    assert " nats of KL per token " in shown.stdout.splitlines()[-1]
    assert max(map(len, shown.stdout.splitlines())) <= 88


def test_an_indicator_takes_the_loss_of_a_format_as_target(folder: Path) -> None:
    wanted = ("--quality", "v.json", "--quality-at-least", "int4", "--out", "v-plan.json")
    quality = content_of(*SEARCH, *wanted, cwd=folder)["quality"]
    assert quality["measure"] == "LLM-PQ variance indicator"
    assert quality["budget"] == pytest.approx(12 * 0.004)
    assert quality["perplexity"] is None


def test_formats_with_gaps_and_broken_layers_are_not_planned_with(tmp_path: Path) -> None:
    columns: Columns = {"int3": [None] + [1e-6] * 11, "int4": [1e-6] * 11, "int8": [1e-5] * 12}
    write_quality(tmp_path / "q.json", measured_quality(MODEL, columns))
    found = content_of(*SEARCH, "--quality", "q.json", "--max-kl", "0.5", cwd=tmp_path)
    assert found["notes"][:2] == [
        "int3 is not given to layers it breaks: 0",
        "int4 is not offered: 1 of 12 layers not measured",
    ]
    formats = [name for stage in found["plan"]["plan"]["stages"] for name in stage["formats"]]
    assert formats[0] != "int3"
    assert "int4" not in formats
    assert llmpq("verify", "plan.json", cwd=tmp_path).returncode == 0


MESSAGES = {
    "target": (("--quality", "q.json"), "--quality: expected a target in its units, one of"),
    "two": (
        ("--quality", "q.json", "--max-kl", "1", "--quality-at-least", "int8"),
        "--max-kl: expected one quality target, got --quality-at-least too",
    ),
    "no file": (("--max-kl", "1"), "--max-kl: is in measured units; give the file of llmpq"),
    "indicator": (
        ("--quality", "v.json", "--max-perplexity-increase", "1"),
        "--max-perplexity-increase: v.json holds the LLM-PQ variance indicator, not KL",
    ),
    "sensitivity": (
        ("--quality", "q.json", "--quality-at-least", "int4", "--sensitivity", "q.json"),
        "--sensitivity: --quality has the loss of each layer; leave one out",
    ),
    "model": (
        ("--quality", "other.json", "--max-kl", "1"),
        "other.json: was measured with x (shapes 000000000000), expected opt-125m (shapes",
    ),
    "missing": (("--quality", "none.json", "--max-kl", "1"), "cannot read none.json: No such file"),
    "plan": (("--quality", "not.json", "--max-kl", "1"), "not.json.schema: expected llmpq/quality"),
    "negative": (("--quality", "q.json", "--max-kl", "-1"), "--max-kl: expected a number of at"),
}


@pytest.mark.parametrize("name", MESSAGES)
def test_bad_input_is_one_message(folder: Path, name: str) -> None:
    (folder / "not.json").write_text('{"schema": "llmpq/plan"}', encoding="utf-8")
    arguments, message = MESSAGES[name]
    done = called(*SEARCH, *arguments, "--out", "bad.json", cwd=folder)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {message}"), done.stderr
    assert done.stderr.count("\n") == 1
    assert not (folder / "bad.json").exists()


def test_a_budget_that_nothing_keeps_is_refused_in_the_measured_unit(folder: Path) -> None:
    wanted = ("--quality", "q.json", "--max-kl", "0.001", "--formats", "int3,int4")
    done = called(*SEARCH, *wanted, "--out", "bad.json", cwd=folder)
    assert done.returncode == 1
    assert "within a quality loss of 0.001 nats of KL per token; with one request" in done.stderr

"""A real checkpoint from its measured losses to a plan that is carried out and keeps its promise.

The table that it writes beside the model stands in docs/log.md.
"""

import json
import statistics
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from tests.e2e.commands import llmpq
from tests.e2e.test_deploy import CLUSTER
from tests.runtimes.models import generated
from tests.runtimes.real_checkpoint import UnavailableError, make_real_model

MODEL = "smollm2-135m"
FORMATS = ("int8", "int4", "int3")
BUDGET_NATS = 0.3
TOKENS = 12
PATIENCE_S = 3600.0
QUESTION = "The capital of France is"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("real")
    try:
        make_real_model(path)
    except UnavailableError as error:
        pytest.skip(str(error))
    (path / "two.yaml").write_text(CLUSTER, encoding="utf-8")
    return path


def said(*arguments: str, cwd: Path) -> dict[str, Any]:
    done = llmpq(*arguments, "--json", cwd=cwd, timeout_s=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    content = json.loads(done.stdout)
    assert isinstance(content, dict)
    return content


@pytest.mark.slow
def test_a_real_model_is_measured_planned_carried_out_and_checked(folder: Path) -> None:
    windows = ("--windows", "4", "--window-tokens", "64", "--dtype", "fp32")
    said(
        "quality", MODEL, "--formats", ",".join(FORMATS), "--check", "2", *windows,
        "--out", "q.json", cwd=folder,
    )  # fmt: skip
    losses = losses_of(json.loads((folder / "q.json").read_text(encoding="utf-8")))
    totals = {name: sum(losses[name]) for name in FORMATS}
    assert 0 <= totals["int8"] < 0.2 < totals["int4"] < totals["int3"]

    planned = said(
        "search", "--model", MODEL, "--cluster", "two.yaml", "--kernels", "spec",
        "--batch", "2", "--prompt-tokens", "16", "--output-tokens", str(TOKENS),
        "--quality", "q.json", "--max-kl", str(BUDGET_NATS), "--workers", "1",
        "--generations", "5", cwd=folder,
    )  # fmt: skip
    assert planned["quality"]["loss"] <= BUDGET_NATS
    checked = said("quality", MODEL, "--plan", "plan.json", *windows, cwd=folder)
    answer, reference = answers_of(folder)
    (folder / "table.md").write_text(table(losses, planned, checked, answer), encoding="utf-8")
    assert "Paris" in answer
    assert "Paris" in reference


def losses_of(measured: dict[str, Any]) -> dict[str, list[float]]:
    """Return the loss of each layer by format."""
    losses: dict[str, list[float]] = {name: [] for name in FORMATS}
    for cells in measured["rows"]:
        row = dict(zip(measured["columns"], cells, strict=True))
        losses[row["format"]].append(row["loss"])
    return losses


def answers_of(folder: Path) -> tuple[str, str]:
    """Return what the deployed plan says, and what transformers says with the 16-bit weights."""
    model = folder / MODEL
    tokenizer = AutoTokenizer.from_pretrained(model)
    prompt = tokenizer(QUESTION)["input_ids"]
    body = {"prompt": prompt, "max_tokens": TOKENS, "ignore_eos": True}
    line = {"custom_id": "a", "method": "POST", "url": "/v1/completions", "body": body}
    (folder / "in.jsonl").write_text(json.dumps(line) + "\n", encoding="utf-8")
    done = llmpq(
        "deploy", "plan.json", "--model-dir", MODEL, "--dtype", "fp32",
        "--requests", "in.jsonl", "--out", "out.jsonl", cwd=folder, timeout_s=PATIENCE_S,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((folder / "out.jsonl").read_text(encoding="utf-8"))
    tokens = found["response"]["body"]["choices"][0]["token_ids"]
    reference = generated(model, [prompt], TOKENS)[0]
    return tokenizer.decode(tokens), tokenizer.decode(reference)


def table(
    losses: dict[str, list[float]], planned: dict[str, Any], checked: dict[str, Any], answer: str
) -> str:
    """Return the table that stands in docs/log.md."""
    lines = ["| format | all layers | median layer | most sensitive layer |", "|---|---|---|---|"]
    for name, of_layers in losses.items():
        worst = max(range(len(of_layers)), key=of_layers.__getitem__)
        middle = statistics.median(of_layers)
        most = f"{worst} ({of_layers[worst]:.4f})"
        lines.append(f"| {name} | {sum(of_layers):.4f} | {middle:.5f} | {most} |")
    lines += ["", f"planned: {planned['quality']}", f"checked: {checked}", f"answer: {answer!r}"]
    return "\n".join(lines) + "\n"

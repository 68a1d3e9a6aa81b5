"""Long prompts through the installed command: planned in chunks, simulated, proven, drawn."""

import json
from pathlib import Path

import pytest

from tests.e2e.commands import llmpq

CLUSTER = """\
schema: llmpq/cluster
version: 1
name: desk
nodes:
  - name: n0
    devices:
      - {{type: rtx-3090, count: {count}}}
    link: pcie-4-host
"""


def searched(folder: Path, count: int, *asked: str) -> str:
    """Return what a search for a cluster of so many cards wrote to the screen."""
    (folder / "desk.yaml").write_text(CLUSTER.format(count=count), encoding="utf-8")
    done = llmpq("search", "--cluster", "desk.yaml", "--batch", "1", *asked, cwd=folder)
    assert done.returncode == 0, done.stderr
    return done.stdout


def plan_of(path: Path) -> dict[str, object]:
    content: dict[str, dict[str, object]] = json.loads(path.read_text(encoding="utf-8"))
    return content["plan"]


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """An 8B model in bf16 on one card of 24 GB, one user with 45,000 tokens."""
    folder = tmp_path_factory.mktemp("long")
    tokens = ("--prompt-tokens", "44000", "--output-tokens", "1000")
    shown = searched(folder, 1, "--model", "llama-3.1-8b", "--formats", "bf16", *tokens)
    return folder, shown


def test_a_prompt_that_fits_in_chunks_alone_is_planned_so(long: tuple[Path, str]) -> None:
    folder, shown = long
    assert plan_of(folder / "plan.json")["prefill_chunk_tokens"] == 8192
    assert "prefill 1 x 44000 in 6 chunks of 7333 or 7334" in shown
    assert "no plan fits" not in shown  # baselines cut prompts as well
    assert shown.count("x1.00") == 6
    verified = llmpq("verify", "plan.json", cwd=folder)
    assert "6 micro-batchings checked by arithmetic" in verified.stdout, verified.stderr
    asked = llmpq("simulate", "plan.json", "--json", "--timeline", "steps.json", cwd=folder)
    assert asked.returncode == 0, asked.stderr
    slices = json.loads((folder / "steps.json").read_text(encoding="utf-8"))["traceEvents"]
    assert sum(each.get("name") == "prefill" for each in slices) == 6


def test_the_same_plan_without_chunks_is_refused_with_them_as_advice(
    long: tuple[Path, str], tmp_path: Path
) -> None:
    content = json.loads((long[0] / "plan.json").read_text(encoding="utf-8"))
    del content["plan"]["prefill_chunk_tokens"]
    (tmp_path / "whole.json").write_text(json.dumps(content), encoding="utf-8")
    done = llmpq("simulate", "whole.json", cwd=tmp_path)
    assert done.returncode == 1
    assert "chunks of 8192 prompt tokens would fit (prefill_chunk_tokens)" in done.stderr
    shorter = llmpq("simulate", long[0] / "plan.json", "--prompt-tokens", "8000", cwd=tmp_path)
    assert "prefill_chunk_tokens: expected 1 to 8000 (the prompt), got 8192" in shorter.stderr


def test_chunks_keep_both_cards_busy_and_older_proofs_cover_whole_prompts(
    tmp_path: Path,
) -> None:
    asked = ("--model", "llama-2-13b", "--formats", "int4", "--output-tokens", "8")
    searched(tmp_path, 2, *asked, "--prompt-tokens", "3000", "--out", "two.json")
    plan = plan_of(tmp_path / "two.json")
    assert isinstance(plan["stages"], list)
    assert len(plan["stages"]) == 2
    assert plan["prefill_chunk_tokens"] in (512, 1024)
    content = json.loads((tmp_path / "two.json").read_text(encoding="utf-8"))
    entries = content["certificate"]
    whole = [entry for entry in entries if "prefill_chunk_tokens" not in entry]
    assert len(whole) < len(entries) - 1

    content["certificate"] = entries[:-1]
    (tmp_path / "less.json").write_text(json.dumps(content), encoding="utf-8")
    lacking = llmpq("verify", "less.json", cwd=tmp_path)
    assert "1 are missing, the first is prefill 1 in chunks of 2048, decode 1" in lacking.stderr

    del content["plan"]["prefill_chunk_tokens"]
    content |= {"certificate": whole, "predicted": {}}
    (tmp_path / "older.json").write_text(json.dumps(content), encoding="utf-8")
    older = llmpq("verify", "older.json", cwd=tmp_path)
    assert older.returncode == 0, older.stderr
    assert "only plans that prefill whole prompts are covered" in older.stdout

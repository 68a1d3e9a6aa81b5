"""Each command through the installed entry point, with good input."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import llmpq

SMALL = (
    "search", "--model", "opt-1.3b", "--cluster", "t4-v100-a100", "--kernels", "spec",
    "--batch", "8", "--prompt-tokens", "64", "--output-tokens", "16",
    "--quality-at-least", "int8", "--seed", "5",
)  # fmt: skip


def content_of(*arguments: str | Path, cwd: Path) -> dict[str, Any]:
    done = llmpq(*arguments, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert isinstance(loaded, dict)
    return loaded


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("search")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    return content_of(*SMALL, cwd=folder)


def test_a_search_prints_one_object_with_everything_asked_for(found: dict[str, Any]) -> None:
    assert {
        "schema", "plan", "plan_file", "predicted", "bound", "quality", "baselines", "search"
    } <= set(found)  # fmt: skip
    assert {
        "makespan_s", "tokens_per_s", "stage_busy_fraction", "stage_memory_bytes",
        "stage_memory_limit_bytes",
    } <= set(found["predicted"])  # fmt: skip
    assert {"seconds", "evaluations", "generations", "seed"} <= set(found["search"])
    assert found["search"]["seed"] == 5
    assert found["plan_file"] == "plan.json"


def test_the_plan_is_never_worse_than_a_baseline_nor_better_than_the_bound(
    found: dict[str, Any],
) -> None:
    rate = found["predicted"]["tokens_per_s"]
    rates = [each["tokens_per_s"] for each in found["baselines"] if each["feasible"]]
    assert len(found["baselines"]) == 7
    assert rates
    assert rate >= max(rates) * (1 - 1e-9)
    assert rate <= found["bound"]["tokens_per_s"] * (1 + 1e-9)
    assert found["quality"]["loss"] <= found["quality"]["budget"] * (1 + 1e-9)


def test_simulating_the_plan_predicts_what_the_search_did(
    folder: Path, found: dict[str, Any]
) -> None:
    predicted = content_of("simulate", "plan.json", cwd=folder)
    for name in ("makespan_s", "tokens_per_s", "stage_busy_fraction", "stage_memory_bytes"):
        assert predicted[name] == found["predicted"][name]


def test_the_certificate_verifies_to_the_same_bound(folder: Path, found: dict[str, Any]) -> None:
    verified = content_of("verify", "plan.json", cwd=folder)
    assert verified["bound_s"] == found["bound"]["makespan_s"]


def test_the_same_seed_writes_the_same_plan_whatever_the_number_of_workers(
    folder: Path, found: dict[str, Any]
) -> None:
    content_of(*SMALL, "--out", "again.json", "--workers", "1", cwd=folder)
    assert (folder / "again.json").read_bytes() == (folder / "plan.json").read_bytes()
    assert not list(folder.glob("*.checkpoint.json"))


def test_a_search_stopped_by_its_budget_is_resumed(folder: Path, found: dict[str, Any]) -> None:
    stopped = content_of(*SMALL, "--out", "part.json", "--budget-s", "0", cwd=folder)
    assert stopped["search"]["ended"] == "budget"
    resumed = content_of(*SMALL, "--out", "part.json", "--resume", cwd=folder)
    assert resumed["search"]["ended"] == "done"
    assert resumed["predicted"]["tokens_per_s"] >= stopped["predicted"]["tokens_per_s"]
    assert not (folder / "part.json.checkpoint.json").exists()


def test_a_front_trades_speed_for_quality(folder: Path) -> None:
    front = content_of(*SMALL, "--pareto", "--out", "front.json", cwd=folder)["front"]
    rates = [member["tokens_per_s"] for member in front]
    losses = [member["quality_loss"] for member in front]
    assert len(front) > 1
    assert rates == sorted(rates, reverse=True)
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("kind", ["models", "devices", "clusters", "formats"])
def test_what_ships_is_listed(tmp_path: Path, kind: str) -> None:
    shown = llmpq("list", kind, cwd=tmp_path)
    assert shown.returncode == 0
    assert max(map(len, shown.stdout.splitlines())) <= 88
    assert content_of("list", kind, cwd=tmp_path)


def test_a_fit_of_a_few_rows_gives_a_profile_that_a_search_uses(folder: Path) -> None:
    rows = ["gpu,op,phase,quant,m,n,k,latency_us"]
    for tokens in (1, 16, 256, 2048):
        for size in (1024, 2048, 4096, 8192):
            bytes_us, flops_us = size * size * 2 / 250e3, 2 * tokens * size * size / 40e6
            rows.append(f"t4,gemm,any,fp16,{tokens},{size},{size},{5 + max(bytes_us, flops_us)}")
    (folder / "rows.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    fitted = content_of("fit", "rows.csv", "--device", "t4", "--out", "t4.json", cwd=folder)
    assert fitted["rows_used"] == 16
    arguments = [*SMALL, "--profile", "t4.json", "--formats", "fp16", "--out", "own.json"]
    own = content_of(*arguments, "--quality-at-least", "fp16", cwd=folder)
    assert own["predicted"]["tokens_per_s"] > 0
    assert llmpq("verify", "own.json", cwd=folder).returncode == 0  # it carries the profile
    assert llmpq("verify", "own.json", "--profile", "t4.json", cwd=folder).returncode == 0
    other = json.loads((folder / "t4.json").read_text(encoding="utf-8"))
    other["layer_overhead_s"] = 1.0
    (folder / "other.json").write_text(json.dumps(other), encoding="utf-8")
    refused = llmpq("verify", "own.json", "--profile", "other.json", cwd=folder)
    assert refused.returncode == 1
    assert "is not the profile the plan was made with" in refused.stderr

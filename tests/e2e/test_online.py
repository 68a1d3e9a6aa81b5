"""Search for a trace through the installed command, and uses of its plan."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import llmpq

TRACE = ("--trace", "azure-conv", "--requests", "60", "--rate", "6")
SLO = ("--slo-ttft-ms", "120", "--slo-tpot-ms", "10")
SMALL = (
    "search", "--model", "opt-1.3b", "--cluster", "t4-v100-a100", "--kernels", "spec",
    "--quality-at-least", "int8", "--generations", "2", *TRACE, *SLO,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("online")


@pytest.fixture(scope="module")
def found(folder: Path) -> dict[str, Any]:
    return content_of(*SMALL, cwd=folder)


def content_of(*arguments: str | Path, cwd: Path) -> dict[str, Any]:
    done = llmpq(*arguments, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    loaded = json.loads(done.stdout)
    assert isinstance(loaded, dict)
    return loaded


def test_it_prints_what_a_simulation_does_and_more(found: dict[str, Any]) -> None:
    assert {
        "schema", "plan", "plan_file", "predicted", "bound", "quality", "baselines", "search",
        "objective", "settings", "trace",
    } <= set(found)  # fmt: skip
    assert {
        "requests", "finished", "refused", "makespan_s", "tokens_per_s", "requests_per_s",
        "ttft_s", "tpot_s", "itl_s", "latency_s", "stage_busy_fraction", "kv_peak_fraction",
        "preemptions", "goodput_per_s", "slo_attainment", "stage_memory_bytes",
        "stage_memory_limit_bytes",
    } <= set(found["predicted"])  # fmt: skip
    goodput = found["predicted"]["goodput_per_s"]
    assert goodput == found["objective"]["value"]
    assert goodput <= found["bound"]["requests_per_s"]
    assert found["bound"]["measure"] == "goodput_per_s"


def test_it_is_never_worse_than_others_on_the_same_requests(found: dict[str, Any]) -> None:
    feasible = [each for each in found["baselines"] if each["feasible"]]
    assert len(feasible) > 3
    assert found["objective"]["value"] >= max(each["objective"] for each in feasible)


def test_simulating_the_plan_on_the_same_requests_predicts_the_same(
    folder: Path, found: dict[str, Any]
) -> None:
    again = content_of("simulate", "plan.json", *TRACE, *SLO, cwd=folder)
    assert again["settings"] == found["settings"]
    assert again["trace"] == found["trace"]
    assert again["bound"]["requests_per_s"] == found["bound"]["requests_per_s"]
    for name in ("makespan_s", "goodput_per_s", "ttft_s", "latency_s", "stage_memory_bytes"):
        assert again[name] == found["predicted"][name]


def test_the_plan_verifies_and_simulates_as_one_for_a_batch(
    folder: Path, found: dict[str, Any]
) -> None:
    batch = found["representative_batch"]
    verified = content_of("verify", "plan.json", cwd=folder)
    assert verified["bound_s"] == batch["bound_s"]
    assert verified["makespan_s"] == batch["makespan_s"]
    assert verified["requests_per_s"] == found["bound"]["requests_per_s"]
    simulated = content_of("simulate", "plan.json", cwd=folder)
    assert simulated["makespan_s"] == batch["makespan_s"]


def test_the_same_seed_writes_the_same_bytes(folder: Path, found: dict[str, Any]) -> None:
    content_of(*SMALL, "--out", "again.json", "--workers", "1", cwd=folder)
    assert (folder / "again.json").read_bytes() == (folder / "plan.json").read_bytes()


def test_the_screen_says_the_answer_first_and_what_no_plan_can_do(tmp_path: Path) -> None:
    impossible = ("--slo-ttft-ms", "0.001", "--generations", "0", "--rate", "5000")
    done = llmpq(*SMALL[: -len(SLO)], *impossible, cwd=tmp_path)
    assert done.stderr.startswith("warning: 5000.0 requests/s arrive, more than the ")
    assert "(proven)" in done.stdout
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert "goodput 0 requests/s" in lines[0]
    assert "Even alone on idle devices no request meets the TTFT of 0.00100 ms" in done.stdout
    assert max(map(len, lines)) <= 88


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            ("--objective", "goodput"),
            "--objective goodput: expected what a good request meets: --slo-ttft-ms, "
            "--slo-tpot-ms or --slo-e2e-ms",
        ),
        (("--resume",), "--resume: a search for a trace keeps no checkpoint; leave it out"),
        (("--pareto",), "--pareto: a search for a trace has one objective; leave it out"),
        (
            ("--objective", "cost", "--attainment", "0.5"),
            "--attainment: is the share of requests that meet the SLO of the cheapest service; "
            "give --objective cost and --slo-ttft-ms, --slo-tpot-ms or --slo-e2e-ms as well",
        ),
        (("--batch", "4"), "--batch: a trace brings its own requests"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    tmp_path: Path, options: tuple[str, ...], said: str
) -> None:
    done = llmpq(*SMALL[: -len(SLO)], *options, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (1, "", f"error: {said}\n")


def test_options_of_traces_need_one(tmp_path: Path) -> None:
    done = llmpq("search", "--model", "opt-1.3b", "--cluster", "paper-1", "--rate", "2",
                 cwd=tmp_path)  # fmt: skip
    assert done.stderr == "error: --rate: give --trace or --lengths as well\n"

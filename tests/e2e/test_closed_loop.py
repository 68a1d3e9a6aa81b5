"""Capacity and closed loops through the installed command, with what people measured."""

import json
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.commands import called, llmpq

LENGTHS = ("--lengths", "D(1024,128)")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a plan of an 8B model in bf16 on one A100 with 40 GB."""
    made = tmp_path_factory.mktemp("closed")
    done = llmpq(
        "search", "--model", "llama-3.1-8b", "--cluster", "paper-2", "--formats", "bf16",
        "--batch", "8", "--prompt-tokens", "1024", "--generations", "1", cwd=made,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "KV tokens ·" in done.stdout
    return made


def content_of(*arguments: str | Path, cwd: Path) -> dict[str, Any]:
    done = llmpq(*arguments, "--json", cwd=cwd)
    assert done.returncode == 0, done.stderr
    loaded: dict[str, Any] = json.loads(done.stdout)
    return loaded


def sweep_of(folder: Path, sizes: str, *more: str) -> list[dict[str, Any]]:
    requests = ("--requests", "128", *LENGTHS)
    content = content_of(
        "simulate", "plan.json", *requests, "--sweep-concurrency", sizes, *more, cwd=folder
    )
    rows: list[dict[str, Any]] = content["sweep"]
    return rows


def test_a_sweep_has_the_throughput_that_was_measured_on_an_a100(folder: Path) -> None:
    """vLLM on an A100-40G, 1024 + 128 tokens: 75 tokens/s with one in flight, x6.6 with eight."""
    one, eight = (row["tokens_per_s"] for row in sweep_of(folder, "1,8"))
    assert one == pytest.approx(75, rel=0.02)
    assert eight / one == pytest.approx(6.6, rel=0.08)


def test_a_sweep_says_of_each_loop_what_a_simulation_of_it_says(folder: Path) -> None:
    rows = sweep_of(folder, "4,1")
    assert [row["concurrency"] for row in rows] == [4, 1]
    for row in rows:
        asked = ("--requests", "128", *LENGTHS, "--concurrency", str(row["concurrency"]))
        alone = content_of("simulate", "plan.json", *asked, cwd=folder)
        assert alone["trace"]["concurrency"] == row["concurrency"]
        assert (alone["trace"]["rate_per_s"], alone["queue"]["grows"]) == (None, False)
        for key in ("tokens_per_s", "requests_per_s", "preemptions"):
            assert alone[key] == row[key]
        assert alone["ttft_s"]["p99"] == row["ttft_p99_s"]
        assert row["tokens_per_s_per_user"] * row["concurrency"] == pytest.approx(
            row["tokens_per_s"]
        )
    shown = llmpq(
        "simulate", "plan.json", "--requests", "128", *LENGTHS, "--sweep-concurrency", "1,4",
        cwd=folder,
    ).stdout  # fmt: skip
    assert "in flight  tokens/s  per user" in shown
    assert f"{rows[0]['tokens_per_s']:.1f}" in shown


def test_capacity_is_told_alone_and_in_what_is_simulated(folder: Path) -> None:
    """The longest context, and how many requests of 8192 tokens there is room for at once."""
    alone = content_of("simulate", "plan.json", "--capacity", cwd=folder)["capacity"]
    assert content_of("simulate", "plan.json", cwd=folder)["capacity"] == alone
    one = ("simulate", "plan.json", "--batch", "8")
    eight = {each["sequences"]: each["context_tokens"] for each in alone["longest_contexts"]}[8]
    served = llmpq(*one, "--prompt-tokens", str(eight - 128), "--output-tokens", "128", cwd=folder)
    assert served.returncode == 0, served.stderr
    more = llmpq(*one, "--prompt-tokens", str(eight - 127), "--output-tokens", "128", cwd=folder)
    assert more.returncode == 1
    assert "does not fit" in more.stderr
    asked = ("--capacity", "--context", "8192", "--sequences", "3", *LENGTHS)
    service = content_of("simulate", "plan.json", *asked, cwd=folder)["capacity"]
    assert service["sequences"] == service["kv_tokens"] // 8192 == service["users"]
    assert [each["sequences"] for each in service["longest_contexts"]] == [1, 3]
    screen = llmpq("simulate", "plan.json", "--capacity", cwd=folder).stdout
    assert f"{alone['kv_tokens']} KV tokens · {alone['sequences']} requests of 1152" in screen


def test_more_in_flight_than_fit_wait_and_it_is_said_how_many_fit(folder: Path) -> None:
    asked = ("--lengths", "D(12000,200)", "--requests", "20", "--concurrency", "18")
    done = llmpq("simulate", "plan.json", *asked, cwd=folder)
    text = " ".join(done.stdout.split())
    assert "Of 18 in flight some wait: room for 15 requests of 12200 tokens, the mean, in" in text
    few = llmpq("simulate", "plan.json", *asked, "--sequence-limit", "4", cwd=folder)
    text = " ".join(few.stdout.split())
    assert "Of 18 in flight some wait: 4 requests at once by --sequence-limit" in text


def test_a_closed_loop_is_planned_for_throughput_and_deployed_as_one(folder: Path) -> None:
    loop = ("--lengths", "D(200,20)", "--requests", "40", "--concurrency", "4")
    found = content_of(
        "search", "--model", "opt-125m", "--cluster", "paper-4", "--generations", "1",
        "--out", "loop.json", *loop, cwd=folder,
    )  # fmt: skip
    assert found["objective"] == {
        "name": "throughput",
        "attainment": None,
        "value": found["predicted"]["tokens_per_s"],
    }
    assert found["plan"]["serving"]["concurrency"] == 4
    feasible = [each["objective"] for each in found["baselines"] if each["feasible"]]
    assert found["objective"]["value"] >= max(feasible)
    again = content_of("simulate", "loop.json", *loop, cwd=folder)
    assert again["tokens_per_s"] == found["predicted"]["tokens_per_s"]
    served = content_of(
        "deploy", "loop.json", "--runtime", "simulated", "--trace", "azure-conv",
        "--requests", "12", "--concurrency", "3", "--compare", cwd=folder,
    )  # fmt: skip
    assert all(
        each["predicted"] == each["measured"] for each in served["comparison"]["figures"].values()
    )
    result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    assert result["concurrency"] == 3
    assert result["requests"]["arrival_s"][:3] == [0.0, 0.0, 0.0]
    assert min(result["requests"]["arrival_s"][3:]) >= min(result["requests"]["last_s"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--concurrency", "4"), "--concurrency: give --trace or --lengths as well"),
        ((*LENGTHS, "--concurrency", "4", "--rate", "2"), "so --rate says nothing; give one"),
        ((*LENGTHS, "--sweep-concurrency", "1,two"), "expected whole numbers with commas between"),
        (("--context", "9"), "--context: give --capacity as well"),
        (("--capacity", "--slo-ttft-ms", "9"), "--slo-ttft-ms: is of a simulation"),
        (("--capacity", "--timeline", "t.json"), "--timeline: draws one simulation"),
    ],
)
def test_what_does_not_go_together_is_said_in_one_line(
    folder: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = called("simulate", "plan.json", *arguments, cwd=folder)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_loop_without_continuous_batching_is_not_deployed(folder: Path) -> None:
    done = llmpq("deploy", "plan.json", "--runtime", "simulated", "--concurrency", "3", cwd=folder)
    assert done.returncode == 1
    assert "--concurrency: is of continuous batching; give --policy continuous" in done.stderr

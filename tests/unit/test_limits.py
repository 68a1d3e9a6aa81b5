"""Limits: written down in one place, and checked before memory is taken."""

import resource
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmpq_sim.core import limits
from llmpq_sim.core.errors import InputError
from llmpq_sim.io.models import load_model
from llmpq_sim.io.tasks import batch_workload, load_output_lengths
from llmpq_sim.io.workloads import TraceOptions, load_workload
from llmpq_sim.simulator.continuous.settings import default_settings
from tests.traces import requests

DOCS = Path(__file__).parents[2] / "docs" / "limits.md"


def test_the_page_is_the_table() -> None:
    page = DOCS.read_text(encoding="utf-8")
    assert page[page.index("| what") :] == limits.markdown_table()


@pytest.mark.parametrize("value", [0, -1, 11, 10**400])
def test_a_count_beyond_its_limit_is_refused(value: int) -> None:
    with pytest.raises(InputError, match=r"^--batch: expected 1 to 10 requests, got "):
        limits.check_count("--batch", value, 10, "requests")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0, 1e-300])
def test_what_is_no_number_within_limits_is_refused(value: float) -> None:
    with pytest.raises(InputError, match=r"^--rate: expected 1e-06 to 10 requests/s, got "):
        limits.check_number("--rate", value, 1e-6, 10.0, "requests/s")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_seconds_are_finite(value: float) -> None:
    limits.check_options({"budget_s": 0.0})
    with pytest.raises(InputError, match=r"^--budget-s: expected a finite number, got "):
        limits.check_options({"budget_s": value})


@pytest.mark.parametrize("name", ["", " ", "x\ny", "\x1b[2J", "x" * 201, "\udcff"])
def test_a_name_is_a_line_that_prints(name: str) -> None:
    with pytest.raises(InputError, match=r"^--name: expected 1 to 200 printable characters, got"):
        limits.check_name("--name", name)


@pytest.mark.parametrize("batch", [10**9, 10**12, 10**30])
def test_a_huge_batch_is_refused_before_it_is_made(batch: int) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(InputError, match=r"^--batch: expected 1 to 4096 requests, got "):
        batch_workload(load_model("llama-160m"), batch, 8, 8)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + 100_000


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("9" * 5000, "f.txt:1: expected a whole number of at least 1, got "),
        ("8\n" + "9" * 4301, "f.txt:2: expected a whole number of at least 1, got "),
        ("8\n0\n", "f.txt:2: expected a whole number of at least 1, got '0'"),
        ("9\n" * 4097, "--batch: expected 1 to 4096 requests, got 4097"),
    ],
)
def test_output_lengths_are_limited_line_by_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "f.txt"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        load_output_lengths(path)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("token_budget", 10**21, "--token-budget: expected 1 to 1048576 tokens, got a number"),
        ("token_budget", 0, "--token-budget: expected 1 to 1048576 tokens, got 0"),
        ("sequence_limit", 10**9, "--sequence-limit: expected 1 to 100000 sequences, got"),
        ("sequence_limit", 0, "--sequence-limit: expected 1 to 100000 sequences, got 0"),
    ],
)
def test_limits_of_the_scheduler_are_limited(option: str, value: int, message: str) -> None:
    workload = requests([0.0])
    given: dict[str, Any] = {option: value}
    with pytest.raises(InputError) as caught:
        default_settings(load_model("llama-160m"), workload, **given)
    assert str(caught.value).startswith(message)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (TraceOptions("azure-conv", rate_per_s=1e-300), "--rate: expected 1e-06 to 1e+09"),
        (TraceOptions("azure-conv", rate_per_s=float("nan")), "--rate: expected 1e-06 to 1e+09"),
        (
            TraceOptions("azure-conv", requests=2000, rate_per_s=1e-6),
            "azure-conv-like: expected a rate at which",
        ),
        (TraceOptions("azure-conv", requests=0), "--requests: expected 1 to 50000000 requests"),
        (TraceOptions("azure-conv", chars_per_token=1e-300), "--chars-per-token: expected 0.01 "),
    ],
)
def test_numbers_of_a_trace_are_limited(options: TraceOptions, message: str) -> None:
    with pytest.raises(InputError) as caught:
        load_workload(options, 4096)
    assert str(caught.value).startswith(message)


def test_a_trace_too_dense_to_scale_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    row = '{"timestamp": T, "input_length": 8, "output_length": 4}\n'
    rows = (row.replace("T", time) for time in ("0", "1e-300"))
    path.write_text("".join(rows))
    with np.errstate(all="raise"), pytest.raises(InputError, match="a rate that can be scaled"):
        load_workload(TraceOptions(str(path), rate_per_s=10.0), 4096)


def test_a_trace_of_ages_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "trace.jsonl"
    row = '{"timestamp": T, "input_length": 8, "output_length": 4}\n'
    rows = (row.replace("T", time) for time in ("0", "1e17"))
    path.write_text("".join(rows))
    with pytest.raises(InputError, match="expected arrivals within 1e"):
        load_workload(TraceOptions(str(path)), 4096)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"budget_s": float("nan")}, "--budget-s: expected a finite number, got nan"),
        ({"rate_per_s": float("inf")}, "--rate: expected a finite number, got inf"),
        ({"hang_timeout_s": 1e300}, "--hang-timeout-s: expected a finite number, got 1e+300"),
        ({"workers": 10**9}, "--workers: expected at most 1024, got 1000000000"),
        ({"seed": 10**400}, "--seed: expected at most 1000000000000000000, got a number beyond"),
        ({"count": 257}, "--count: expected at most 256, got 257"),
        ({"name": ""}, "--name: expected 1 to 200 printable characters, got ''"),
    ],
)
def test_options_of_all_commands_are_checked_in_one_place(
    values: dict[str, object], message: str
) -> None:
    good: dict[str, object] = {"resume": True, "out": Path("x"), "budget_s": 0.0, "batch": None}
    limits.check_options(good)
    with pytest.raises(InputError) as caught:
        limits.check_options(good | values)
    assert str(caught.value).startswith(message)

"""Requests drawn from ServeGen's rates and histograms."""

import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.io.traces.loading import load_trace
from llmpq_sim.io.traces.servegen import Activity
from tests.traces import gap_variation, rng, same

TRACE = "0,0,0,,0,0\n600,2.0,1.0,Gamma,1.0,0.5\n1200,8.0,1.0,Gamma,1.0,0.125\n"
DATASET = json.dumps(
    {
        "0": {"input_tokens": "{}", "output_tokens": "{}"},
        "600": {"input_tokens": "{10: 0.25, 20: 0.75}", "output_tokens": "{3: 1.0}"},
        "1200": {"input_tokens": "{30: 1.0}", "output_tokens": "{4: 2, 5: 2}"},
    }
)


def folder(at: Path, trace: str = TRACE, dataset: str = DATASET) -> Path:
    clients = at / "data/client-pool"
    clients.mkdir(parents=True)
    (clients / "chunk-0-trace.csv").write_text(trace)
    (clients / "chunk-0-dataset.json").write_text(dataset)
    return at


def drawn(path: Path, requests: int = 100_000) -> TraceWorkload:
    return load_trace(path, limit=requests, rng=rng())


def refusal(at: Path, trace: str = TRACE, dataset: str = DATASET) -> str:
    with pytest.raises(InputError) as caught:
        drawn(folder(at, trace, dataset))
    return str(caught.value).removeprefix(f"{at.name}: ")


def test_windows_have_their_rates_and_lengths(tmp_path: Path) -> None:
    workload = drawn(folder(tmp_path))
    second = workload.arrival_s >= 600 - 1
    assert workload.span_s == pytest.approx(1200, rel=0.01)
    assert (~second).sum() / 600 == pytest.approx(2.0, rel=0.1)
    assert second.sum() / 600 == pytest.approx(8.0, rel=0.05)
    assert np.mean(workload.prompt_tokens[:1000] == 20) == pytest.approx(0.75, abs=0.05)
    assert set(workload.output_tokens.tolist()) == {3, 4, 5}
    assert workload.notes == ("drawn from the rates and lengths of 1 ServeGen clients",)


def test_the_first_requests_are_kept_and_repeat_with_the_seed(tmp_path: Path) -> None:
    path = folder(tmp_path)
    assert drawn(path, 50).requests == 50
    assert same(drawn(path, 50), drawn(path, 50))


def test_an_archive_gives_what_its_folder_gives(tmp_path: Path) -> None:
    path = folder(tmp_path / "a")
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w:gz") as archive:
        archive.add(path / "data", "ServeGen/data")
    packed = tmp_path / "a.tar.gz"
    packed.write_bytes(content.getvalue())
    assert same(drawn(packed), drawn(path))


@pytest.mark.parametrize("law", ["Gamma", "Weibull"])
def test_gaps_follow_their_law_at_the_stated_rate(law: str) -> None:
    activity = Activity(rate_per_s=100.0, law=law, shape=0.5)
    instants_s = activity.instants(rng())
    assert len(instants_s) / 600 == pytest.approx(100.0, rel=0.05)
    # 1 / sqrt(k) of gamma; sqrt(G(1 + 2/k) / G(1 + 1/k)^2 - 1) of Weibull
    assert gap_variation(instants_s) == pytest.approx(
        {"Gamma": 2**0.5, "Weibull": 5**0.5}[law], rel=0.1
    )


@pytest.mark.parametrize(
    ("trace", "message"),
    [
        ("0,1,1\n", "line 1, columns: expected 6 cells, got '3 cells'"),
        ("0,x,1,Gamma,1,1\n", "line 1, column 2: expected a time as a number, got 'x'"),
        (
            "0,1,1,Pareto,1,1\n",
            "line 1, columns 4 and 5: expected Gamma or Weibull and a shape, got 'Pareto,1'",
        ),
        (
            "0,1,1,Weibull,0.01,1\n",
            "line 1, columns 4 and 5: expected Gamma or Weibull and a shape, got 'Weibull,0.01'",
        ),
        (
            "0,1e9,1,Gamma,1,1\n",
            "line 1, column 2: expected at most 10000 requests/s, got 1000000000.0",
        ),
    ],
)
def test_a_wrong_rate_says_where(tmp_path: Path, trace: str, message: str) -> None:
    assert refusal(tmp_path, trace) == f"chunk-0-trace.csv {message}"


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        ("[]", "expected an object by the start of a window"),
        (
            '{"0": {"text_tokens": "{1: 1.0}"}}',
            "expected input_tokens and output_tokens in window 0; multimodal clients are not "
            "supported",
        ),
        (
            '{"0": {"input_tokens": "__import__(1)", "output_tokens": "{}"}}',
            "expected a histogram such as {45: 0.25, 46: 0.75} as text",
        ),
        (
            '{"0": {"input_tokens": "{1: 0.0}", "output_tokens": "{}"}}',
            "expected shares of at least 0 that are not all 0",
        ),
        ("{}", "expected lengths, as it sends requests"),
    ],
)
def test_wrong_lengths_say_where(tmp_path: Path, dataset: str, message: str) -> None:
    assert refusal(tmp_path, dataset=dataset) == f"chunk-0-dataset.json: {message}"


def test_a_histogram_holds_numbers_and_nothing_else(tmp_path: Path) -> None:
    dataset = '{"0": {"input_tokens": "{open: 1}", "output_tokens": "{}"}}'
    message = "chunk-0-dataset.json line 1, tokens: expected a time as a number, got 'open'"
    assert refusal(tmp_path, dataset=dataset) == message


def test_clients_that_send_nothing_are_refused(tmp_path: Path) -> None:
    message = "expected clients that send requests, got none that do"
    assert refusal(tmp_path, "0,0,0,,0,0\n") == message


def test_a_folder_without_or_with_several_pools_is_refused(tmp_path: Path) -> None:
    needed = "expected one folder with files chunk-<n>-trace.csv and chunk-<n>-dataset.json, got"
    with pytest.raises(InputError) as caught:
        drawn(tmp_path)
    assert str(caught.value) == f"{tmp_path.name}: {needed} none"
    path = folder(tmp_path)
    folder(path / "b")
    with pytest.raises(InputError) as caught:
        drawn(path)
    pools = f"{path / 'b/data/client-pool'}, {path / 'data/client-pool'}"
    assert str(caught.value) == f"{path.name}: {needed} {pools}"


def test_rates_without_lengths_are_refused(tmp_path: Path) -> None:
    path = folder(tmp_path)
    (path / "data/client-pool/chunk-0-dataset.json").unlink()
    with pytest.raises(InputError) as caught:
        drawn(path)
    assert str(caught.value).endswith("chunk-<n>-dataset.json, got only trace.csv")

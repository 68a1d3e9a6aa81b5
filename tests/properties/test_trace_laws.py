"""Laws of traces and workloads: round trips are exact, scaling keeps shapes."""

import gzip
import json
import tempfile
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.presets import load_preset, preset_names
from llmpq_sim.io.traces.json_records import json_records
from llmpq_sim.io.traces.loading import load_trace
from llmpq_sim.workloads.generate import preset_from_options, synthesize
from llmpq_sim.workloads.shaping import (
    compress,
    drop_overlong,
    head,
    superpose,
    truncate_overlong,
    window,
)
from tests.traces import columns, requests, rng

Rows = list[tuple[int, int, int]]
"""Milliseconds, prompt tokens and output tokens."""

ROWS = st.lists(
    st.tuples(st.integers(0, 10**9), st.integers(1, 10**6), st.integers(1, 10**6)),
    min_size=1,
    max_size=30,
)
ARRIVALS = st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=40).map(
    lambda gaps: [0.0, *np.cumsum(gaps).tolist()]
)


def as_azure(rows: Rows) -> str:
    begin = datetime(2023, 11, 16, 18, 15, 46, tzinfo=UTC)
    lines = ["TIMESTAMP,ContextTokens,GeneratedTokens"]
    for ms, prompt, output in rows:
        moment = begin + timedelta(milliseconds=ms)
        lines.append(
            f"{moment:%Y-%m-%d %H:%M:%S}.{moment.microsecond // 1000:03}0000,{prompt},{output}"
        )
    return "\r\n".join(lines)


def as_csv(header: str, row: str, digits: int) -> Callable[[Rows], str]:
    def written(rows: Rows) -> str:
        lines = [row.format(t=f"{ms / 1000:.{digits}f}", p=p, o=o) for ms, p, o in rows]
        return "\n".join([header, *lines, ""])

    return written


def as_lines(row: Callable[[int, int, int], object]) -> Callable[[Rows], str]:
    return lambda rows: "\n".join(json.dumps(row(*each)) for each in rows)


WRITERS: dict[str, Callable[[Rows], str]] = {
    "azure": as_azure,
    "burstgpt": as_csv(
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type",
        "{t},GPT-4,{p},{o},0,API log",
        3,
    ),
    "vidur": as_csv("arrived_at,num_prefill_tokens,num_decode_tokens", "{t},{p},{o}", 3),
    "splitwise-sim": as_csv(
        "request_id,arrival_timestamp,prompt_size,token_size", "0,{t},{p},{o}", 3
    ),
    "mooncake": as_lines(
        lambda ms, p, o: {"timestamp": ms, "input_length": p, "output_length": o, "hash_ids": []}
    ),
    "trace_synthetic": as_lines(
        lambda ms, p, o: {"timestamp": ms / 1000, "input_length": p, "output_length": o}
    ),
    "bailian": as_lines(
        lambda ms, p, o: {
            "chat_id": 1,
            "parent_chat_id": -1,
            "timestamp": ms / 1000,
            "input_length": p,
            "output_length": o,
        }
    ),
    "llmservingsim": as_lines(
        lambda ms, p, o: {"input_toks": p, "output_toks": o, "arrival_time_ns": ms * 1_000_000}
    ),
    "aibrix": as_lines(
        lambda ms, p, o: {
            "timestamp": ms,
            "requests": [{"prompt_length": p, "output_length": o}],
        }
    ),
}


@pytest.mark.parametrize("name", WRITERS)
@settings(deadline=None, max_examples=25)
@given(rows=ROWS, packed=st.booleans())
def test_what_is_written_in_a_format_is_read_back(name: str, rows: Rows, packed: bool) -> None:
    content = WRITERS[name](rows).encode()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace"
        path.write_bytes(gzip.compress(content) if packed else content)
        stated = name if name == "trace_synthetic" else None
        workload = load_trace(path, trace_format=stated, rng=rng())
    ordered = sorted(rows, key=lambda row: row[0])
    assert columns(workload)[1:] == ([p for _, p, _ in ordered], [o for _, _, o in ordered])
    elapsed_s = [(ms - ordered[0][0]) / 1000 for ms, _, _ in ordered]
    if not any("spread" in note for note in workload.notes):
        assert workload.arrival_s == pytest.approx(elapsed_s, abs=1e-7)


@settings(deadline=None, max_examples=200)
@given(content=st.binary(max_size=300) | st.text(max_size=300).map(str.encode))
def test_garbage_is_one_clear_error_or_a_workload(content: bytes) -> None:
    with tempfile.TemporaryDirectory() as folder, suppress(InputError):
        path = Path(folder) / "trace"
        path.write_bytes(content)
        load_trace(path, chars_per_token=4.0, rng=rng())


AZURE = as_azure([(0, 5, 6), (1000, 7, 8)])
MOONCAKE = WRITERS["mooncake"]([(0, 5, 6), (1000, 7, 8)])


@settings(deadline=None, max_examples=200)
@given(text=st.sampled_from([AZURE, MOONCAKE]), data=st.data())
def test_a_damaged_trace_is_one_clear_error_or_a_workload(text: str, data: st.DataObject) -> None:
    content = bytearray(text.encode())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    with tempfile.TemporaryDirectory() as folder, suppress(InputError):
        path = Path(folder) / "trace"
        path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
        load_trace(path, rng=rng())


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda below: (
        st.lists(below, max_size=4) | st.dictionaries(st.text(max_size=5), below, max_size=4)
    ),
    max_leaves=10,
)


@settings(deadline=None, max_examples=50)
@given(
    records=st.lists(st.dictionaries(st.text(max_size=5), JSON, max_size=4), max_size=8),
    style=st.sampled_from(["lines", "array", "indented array", "indented"]),
)
def test_records_are_read_in_every_style(records: list[dict[str, object]], style: str) -> None:
    text = json.dumps(records, indent=2 if "indented" in style else None)
    if style in {"lines", "indented"}:
        text = "\n".join(
            json.dumps(each, indent=2 if style == "indented" else None) for each in records
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "records.json"
        path.write_text(text, encoding="utf-8")
        read = list(json_records(path))
    assert [record for _, record in read] == records
    starts = [text.splitlines()[line - 1].lstrip()[:1] for line, _ in read]
    assert set(starts) <= {"{", "["}


@settings(deadline=None)
@given(arrival_s=ARRIVALS, exponent=st.integers(-8, 8))
def test_compressing_by_a_power_of_two_scales_every_gap_exactly(
    arrival_s: list[float], exponent: int
) -> None:
    workload = requests(arrival_s)
    assert workload.rate_per_s is not None
    faster = compress(workload, workload.rate_per_s * 2.0**exponent)
    assert (faster.arrival_s * 2.0**exponent).tolist() == workload.arrival_s.tolist()


@settings(deadline=None)
@given(arrival_s=ARRIVALS, rate_per_s=st.floats(1e-6, 1e6))
def test_compressing_reaches_any_rate_and_can_be_undone(
    arrival_s: list[float], rate_per_s: float
) -> None:
    workload = requests(arrival_s)
    assert workload.rate_per_s is not None
    faster = compress(workload, rate_per_s)
    assert faster.rate_per_s == pytest.approx(rate_per_s, rel=1e-9)
    back = compress(faster, workload.rate_per_s)
    assert back.arrival_s == pytest.approx(workload.arrival_s, rel=1e-9)


@settings(deadline=None)
@given(arrival_s=ARRIVALS, factor=st.floats(1, 20), seed=st.integers(0, 99))
def test_superposing_conserves_the_number_of_requests_and_invents_none(
    arrival_s: list[float], factor: float, seed: int
) -> None:
    workload = requests(arrival_s, list(range(1, len(arrival_s) + 1)))
    assert workload.rate_per_s is not None
    laid = superpose(workload, workload.rate_per_s * factor, rng(seed))
    assert laid.requests == workload.requests
    assert set(laid.prompt_tokens.tolist()) <= set(workload.prompt_tokens.tolist())
    copies = int(np.ceil(factor * (1 + 1e-9)))
    assert np.bincount(laid.prompt_tokens).max() <= copies


@settings(deadline=None)
@given(arrival_s=ARRIVALS, cut=st.integers(1, 40))
def test_a_head_and_the_rest_are_the_whole(arrival_s: list[float], cut: int) -> None:
    workload = requests(arrival_s, list(range(1, len(arrival_s) + 1)))
    first = head(workload, cut)
    if cut < workload.requests:
        rest = window(workload, float(workload.arrival_s[cut]), float("inf"))
        parts = np.concatenate([first.prompt_tokens, rest.prompt_tokens])
        assert parts.tolist() == workload.prompt_tokens.tolist()


@settings(deadline=None)
@given(prompts=st.lists(st.integers(1, 200), min_size=1, max_size=20), longest=st.integers(3, 250))
def test_no_request_is_overlong_after_dropping_or_cutting(prompts: list[int], longest: int) -> None:
    workload = requests([float(i) for i in range(len(prompts))], prompts)
    cut = truncate_overlong(workload, longest)
    assert cut.requests == workload.requests
    assert cut.context_tokens.max() <= longest
    if min(prompts) + 2 <= longest:
        kept = drop_overlong(workload, longest)
        assert kept.context_tokens.max() <= longest
        assert kept.requests == sum(tokens + 2 <= longest for tokens in prompts)


@settings(deadline=None, max_examples=40)
@given(
    name=st.sampled_from(preset_names()), count=st.integers(1, 60), seed=st.integers(0, 2**32 - 1)
)
def test_every_preset_gives_a_workload_of_any_size(name: str, count: int, seed: int) -> None:
    workload = synthesize(load_preset(name), count, None, rng(seed))
    assert workload.requests == count
    blocks = workload.prefix_blocks
    if blocks is not None and workload.block_tokens is not None:
        counts = -(-workload.prompt_tokens // workload.block_tokens)
        assert [len(row) for row in blocks] == counts.tolist()


@settings(deadline=None, max_examples=40)
@given(
    lengths=st.sampled_from(["D(5,6)", "N(50,20)/(9,9)", "U(1,9)/(2,8)"]),
    arrivals=st.sampled_from(["poisson", "gamma(0.2)", "burst(3)"]),
    rate_per_s=st.floats(1e-4, 1e4),
)
def test_options_give_exactly_the_rate_asked_for(
    lengths: str, arrivals: str, rate_per_s: float
) -> None:
    preset = preset_from_options(lengths, arrivals)
    workload = synthesize(preset, 200, rate_per_s, rng())
    assert workload.rate_per_s == pytest.approx(rate_per_s, rel=1e-9)

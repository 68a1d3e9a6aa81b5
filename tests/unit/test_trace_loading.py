"""Traces of all formats: told apart, unpacked, put in time and order, and limited."""

import json
from pathlib import Path

import numpy as np
import pytest

from llmpq_sim.io.traces.detection import FORMATS, detected_format
from tests.trace_contents import AZURE, AZURE_COLUMNS, BATCH, SHAREGPT, lines, mooncake
from tests.traces import columns, read, rng, same

# ---- formats and packings


@pytest.mark.parametrize("name", ["azure.csv", "azure.csv.gz", "misnamed.jsonl"])
def test_content_tells_the_format_and_the_packing(tmp_path: Path, name: str) -> None:
    assert columns(read(tmp_path, name, "\ufeff" + AZURE)) == AZURE_COLUMNS


def test_records_are_read_across_the_pieces_of_a_large_file(tmp_path: Path) -> None:
    records = [mooncake(row, row + 1, text="é\n{[" * 60) for row in range(3000)]
    for text in (lines(*records), json.dumps(records), json.dumps(records, indent=1)):
        assert len(text.encode()) > 500_000
        workload = read(tmp_path, "large.json", text)
        assert workload.prompt_tokens.tolist() == list(range(1, 3001))


def test_a_record_longer_than_what_is_looked_at_is_still_told(tmp_path: Path) -> None:
    long = mooncake(5, 20_000 * 16, hash_ids=list(range(20_000)))
    text = lines(long, long)
    assert len(text) > 2 * 64 * 1024
    workload = read(tmp_path, "long.jsonl", text)
    assert workload.prompt_tokens.tolist() == [20_000 * 16] * 2


def test_every_format_is_detected_as_itself(tmp_path: Path) -> None:
    samples = {
        "azure": AZURE,
        "openai-batch": BATCH,
        "sharegpt": json.dumps(SHAREGPT),
        "mooncake": lines(mooncake(5, hash_ids=[1])),
        "bailian": lines(mooncake(5, chat_id=1, parent_chat_id=-1, hash_ids=[1])),
        "llmservingsim": lines({"input_toks": 1, "output_toks": 1, "arrival_time_ns": 1}),
        "aibrix": lines({"timestamp": 1, "requests": []}),
        "dynamo-request-trace": lines({"timestamp": 1, "event": {}}),
        "aiperf": lines({"metadata": {}, "metrics": {}}),
        "litellm": "startTime,prompt_tokens,completion_tokens\n",
        "openai-usage": lines({"created": 1, "usage": {}}),
        "opentelemetry": "start_time,gen_ai.usage.input_tokens,gen_ai.usage.output_tokens\n",
        "tokens": "prompt_tokens,completion_tokens\n",
        "timed-lengths": "time;input_tokens;output_tokens\n",
        "prompts": lines({"prompt": "a"}),
        "lengths": lines({"input_length": 1, "output_length": 1}),
        "burstgpt": "timestamp,request tokens,response tokens\n",
        "vidur": "num_prefill_tokens,num_decode_tokens\n",
        "splitwise-sim": "prompt_size,token_size,arrival_timestamp\n",
        "blis": "input_tokens,output_tokens,arrival_time_us\n",
    }
    for name, text in samples.items():
        path = tmp_path / "sample"
        path.write_text(text)
        assert detected_format(path).name == name
    assert {item.name for item in FORMATS} == {*samples, "trace_synthetic"}


def test_a_format_can_be_stated(tmp_path: Path) -> None:
    text = lines(mooncake(1000), mooncake(3000))
    workload = read(tmp_path, "t.jsonl", text, trace_format="trace_synthetic")
    assert columns(workload)[0] == [0.0, 2000.0]
    lengths = read(tmp_path, "t.jsonl", text, trace_format="lengths")
    assert columns(lengths)[0] == [0.0, 0.0]
    both = "input_length,output_length,timestamp\n5,6,7\n"
    assert columns(read(tmp_path, "t.csv", both, trace_format="lengths")) == ([0.0], [5], [6])


# ---- times and order


@pytest.mark.parametrize(
    ("unit", "gap_s"), [("s", 2000.0), ("ms", 2.0), ("us", 0.002), ("ns", 2e-6)]
)
def test_the_unit_of_times_can_be_stated(tmp_path: Path, unit: str, gap_s: float) -> None:
    text = lines(mooncake(1000), mooncake(3000))
    assert columns(read(tmp_path, "t.jsonl", text, time_unit=unit))[0] == [0.0, gap_s]


def test_an_unlikely_rate_is_doubted_unless_the_unit_was_stated(tmp_path: Path) -> None:
    text = lines(*(mooncake(10 * second) for second in range(4)))
    assert not [n for n in read(tmp_path, "t.jsonl", text).notes if "on average" in n]
    fast = lines(*(mooncake(second) for second in range(4)))
    doubt = (
        "warning: 1.33e+03 requests/s on average for 1 device(s); is the time unit right? if not, "
        "give --time-unit s, ms, us or ns"
    )
    assert doubt not in read(tmp_path, "t.jsonl", fast, devices=2).notes
    assert read(tmp_path, "t.jsonl", fast).notes[-1] == doubt
    assert doubt not in read(tmp_path, "t.jsonl", fast, time_unit="ms").notes


def test_repeated_stamps_are_spread_inside_their_ticks(tmp_path: Path) -> None:
    text = lines(*(mooncake(3000 * (row // 10), prompt=row + 1) for row in range(100)))
    workload = read(tmp_path, "ticks.jsonl", text)
    assert workload.prompt_tokens.tolist() == list(range(1, 101))
    ticks = workload.arrival_s.reshape(10, 10)
    assert (np.ptp(ticks, axis=1) < 3).all()
    assert np.diff(ticks.mean(axis=1)) == pytest.approx(3, abs=2)
    assert len(set(workload.arrival_s.tolist())) == 100
    assert workload.notes[-1] == "most stamps repeat: spread uniformly inside ticks of 3 s"
    assert same(workload, read(tmp_path, "ticks.jsonl", text, rng=rng()))
    assert not same(workload, read(tmp_path, "ticks.jsonl", text, rng=rng(1)))


def test_stamps_that_seldom_repeat_and_one_instant_are_left_alone(tmp_path: Path) -> None:
    seldom = lines(mooncake(0), mooncake(0), mooncake(1000), mooncake(2000))
    assert columns(read(tmp_path, "t.jsonl", seldom))[0] == [0.0, 0.0, 1.0, 2.0]
    once = lines(mooncake(7), mooncake(7), mooncake(7))
    assert columns(read(tmp_path, "t.jsonl", once))[0] == [0.0, 0.0, 0.0]


def test_requests_out_of_order_are_sorted_stably_and_counted(tmp_path: Path) -> None:
    times = [0, 5, 3, 5, 9, 3]
    text = lines(*(mooncake(time, row + 1) for row, time in enumerate(times)))
    workload = read(tmp_path, "t.jsonl", text)
    assert workload.prompt_tokens.tolist() == [1, 3, 6, 2, 4, 5]
    assert np.array_equal(workload.arrival_s, np.array([0, 3, 3, 5, 5, 9]) / 1000)
    assert "sorted; earlier than the row before: 2 of 6" in workload.notes


def test_a_limit_takes_the_first_requests_and_reads_no_further(tmp_path: Path) -> None:
    text = lines(mooncake(0), mooncake(1, output=0), mooncake(2), mooncake(3)) + "\n{broken"
    workload = read(tmp_path, "t.jsonl", text, limit=3)
    assert columns(workload)[0] == [0.0, 0.002, 0.003]

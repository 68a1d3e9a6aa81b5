"""Traces as servers, gateways and clients log them, and columns that users name."""

import json
from pathlib import Path

import pytest

from llmpq_sim.io.traces.detection import known_formats
from llmpq_sim.io.traces.loading import MAY_BE_SECONDS
from llmpq_sim.io.traces.named_columns import HOW, unit_by_size, value_at
from tests.trace_contents import lines, mooncake
from tests.traces import columns, read, refusal

SHARED = Path(__file__).resolve().parents[2] / "../shared/data/cases/traces"

LITELLM = (
    "request_id,startTime,endTime,model,prompt_tokens,completion_tokens,spend\n"
    "x,2026-02-03T04:05:06.250Z,2026-02-03T04:05:09Z,m,17,5,0.1\n"
    "y,2026-02-03T05:05:07.000+01:00,2026-02-03T04:05:09Z,m,0,0,0\n"
    "z,2026-02-03T04:05:08Z,2026-02-03T04:05:10Z,m,23,7,0.1\n"
)


def usage(created: object, prompt: int, output: int) -> dict[str, object]:
    """Return an answer of an OpenAI server, as far as its counts go."""
    counts = {"prompt_tokens": prompt, "completion_tokens": output}
    return {"id": "c", "created": created, "usage": counts}


def test_a_gateway_log_has_dates_and_failed_requests(tmp_path: Path) -> None:
    workload = read(tmp_path, "log.csv", LITELLM)
    assert columns(workload) == ([0.0, 1.75], [17, 23], [5, 7])
    assert workload.notes == (
        "read as litellm",
        "times are dates; those without an offset are taken as UTC",
        "dropped of 3 rows: 1 without any tokens",
    )
    as_json = lines(
        *({"startTime": f"2026-02-03 04:05:0{s}", "prompt_tokens": 9, "completion_tokens": 2,
           "messages": []} for s in (1, 3))
    )  # fmt: skip
    assert columns(read(tmp_path, "log.jsonl", as_json)) == ([0.0, 2.0], [9, 9], [2, 2])
    message = refusal(tmp_path, "log.csv", LITELLM, time_unit="s")
    assert message == "--time-unit: the times of log.csv are dates"


def test_answers_of_a_server_count_seconds_and_may_have_failed(tmp_path: Path) -> None:
    failed = {"id": "f", "created": 1_771_000_001, "usage": None}
    text = lines(failed, usage(1_771_000_002, 30, 6), usage(1_771_000_009, 31, 7))
    workload = read(tmp_path, "log.jsonl", text)
    assert columns(workload) == ([0.0, 7.0], [30, 31], [6, 7])
    assert workload.notes[1] == "times in s, as their size tells; if not, give --time-unit"
    assert "dropped of 3 rows: 1 without any tokens" in workload.notes


@pytest.mark.parametrize(("unit", "per_s"), [("s", 1), ("ms", 1e3), ("us", 1e6), ("ns", 1e9)])
def test_a_client_counts_from_1970_in_any_unit_exactly(
    tmp_path: Path, unit: str, per_s: float
) -> None:
    start = 1_771_000_000 * int(per_s)
    assert unit_by_size(start) == unit
    for gap_s in (1, 4):
        record = [
            {
                "metadata": {"request_start_ns": start + at * int(per_s)},
                "metrics": {
                    "input_sequence_length": {"value": 40, "unit": "tokens"},
                    "output_sequence_length": {"value": 8.0, "unit": "tokens"},
                },
            }
            for at in (0, gap_s)
        ]
        workload = read(tmp_path, "profile.jsonl", lines(*record))
        assert columns(workload) == ([0.0, gap_s], [40, 40], [8, 8])
        assert workload.notes[1].startswith(f"times in {unit}, ")


def test_spans_flattened_to_columns_or_nested_are_read(tmp_path: Path) -> None:
    names = "gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens"
    flat = (
        f"startTimeUnixNano,{','.join(names)}\n1771000000000000001,3,4\n1771000001000000001,5,6\n"
    )
    nested = lines(
        {"start_time": "2026-01-01T00:00:00Z", "attributes": dict(zip(names, (3, 4), strict=True))},
        {"start_time": "2026-01-01T00:00:01Z", "attributes": dict(zip(names, (5, 6), strict=True))},
    )
    for name, text in (("spans.csv", flat), ("spans.jsonl", nested)):
        assert columns(read(tmp_path, name, text)) == ([0.0, 1.0], [3, 5], [4, 6])


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_cells_may_be_parted_by_commas_semicolons_and_tabs(tmp_path: Path, separator: str) -> None:
    azure = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
    for header, first, second in (
        (azure, "2026-01-01 00:00:00", "2026-01-01 00:00:02"),
        (("time", "input_tokens", "output_tokens"), "0", "2.0"),
        (("arrived_at", "num_prefill_tokens", "num_decode_tokens"), "0.5", "2.5"),
    ):
        rows = (header, (first, "7", "3"), (second, "8", "4"))
        text = "".join(separator.join(cells) + "\r\n" for cells in rows)
        assert columns(read(tmp_path, "t.csv", text)) == ([0.0, 2.0], [7, 8], [3, 4])


def test_columns_can_be_named(tmp_path: Path) -> None:
    text = "when;in;out\n2026-01-01T00:00:00Z;7;3\n2026-01-01T00:00:02Z;8;4\n"
    named = "time=When,prompt=in,output=out"
    assert columns(read(tmp_path, "t.txt", text, columns=named)) == ([0.0, 2.0], [7, 8], [3, 4])
    record = [{"a": {"b.c": {"d": n}}, "o": 2, "t": 10 * n} for n in (1, 2)]
    named = "prompt=a.b.c.d, output=o, time=t"
    workload = read(tmp_path, "t.json", json.dumps(record), columns=named, time_unit="ms")
    assert columns(workload) == ([0.0, 0.01], [1, 2], [2, 2])
    alone = read(tmp_path, "t.json", json.dumps(record), columns="prompt=o,output=o")
    assert columns(alone) == ([0.0, 0.0], [2, 2], [2, 2])
    assert "no arrival times: all requests are present at the start" in alone.notes


@pytest.mark.parametrize("text", ["", "prompt=a", "a=b", "prompt=a,output=", "prompt=a,prompt=b"])
def test_columns_that_name_nothing_show_how(tmp_path: Path, text: str) -> None:
    message = refusal(tmp_path, "t.csv", LITELLM, columns=text)
    assert message.startswith("--columns: expected ")
    assert message.endswith(f"as in {HOW}, got {text!r}")


def test_wrong_columns_are_answered_with_those_there_are(tmp_path: Path) -> None:
    text = lines(usage(1, 2, 3))
    assert refusal(tmp_path, "t.jsonl", text, columns="prompt=usage.in,output=id.out") == (
        "t.jsonl: no row has tokens in usage.in and id.out; the first row has id, created, usage; "
        f"name others as in {HOW}"
    )
    message = refusal(tmp_path, "t.csv", LITELLM, columns="time=at,prompt=spend,output=spend")
    assert message == "t.csv line 2, at: expected a time, but it is missing"
    mixed = lines(usage(1, 2, 3), usage("2026-01-01 00:00:00", 2, 3))
    assert refusal(tmp_path, "t.jsonl", mixed) == (
        "t.jsonl line 2, created: expected a number, as in the rows before, "
        "got '2026-01-01 00:00:00'"
    )
    message = refusal(tmp_path, "t.csv", LITELLM, columns="prompt=a,output=b", trace_format="azure")
    assert message == "--columns: expected either columns or --trace-format, got both"


def test_messages_without_counts_say_how_to_convert(tmp_path: Path) -> None:
    message = refusal(tmp_path, "chat.jsonl", lines({"messages": [{"role": "user"}]}))
    assert message == (
        "chat.jsonl: records of messages hold texts without token counts or times: count the "
        "tokens with the model's tokenizer, and convert it to JSON lines such as "
        '{"timestamp": 1500, "input_length": 512, "output_length": 64}, with the time in ms'
    )


def test_whole_times_that_may_be_seconds_are_a_warning(tmp_path: Path) -> None:
    text = lines(*(mooncake(30 * n) for n in range(4)))
    assert MAY_BE_SECONDS in read(tmp_path, "t.jsonl", text).notes
    for certain in (
        lines(*(mooncake(30 * n, hash_ids=[1]) for n in range(4))),
        lines(*(mooncake(30 * n, session_id="a") for n in range(4))),
        lines(*(mooncake(30.5 * n) for n in range(4))),
    ):
        assert MAY_BE_SECONDS not in read(tmp_path, "t.jsonl", certain).notes
    assert MAY_BE_SECONDS not in read(tmp_path, "t.jsonl", text, time_unit="s").notes


def test_the_page_lists_every_format_with_its_files_and_times() -> None:
    page = (Path(__file__).parents[2] / "docs/traces.md").read_text(encoding="utf-8")
    table = page[: page.index("## ")]
    rows = [line.split(" | ") for line in table.splitlines() if line.startswith("| `")]
    listed = [(cells[0].strip("|` "), cells[1], cells[2]) for cells in rows]
    assert listed == [(known.name, known.kind, known.times) for known in known_formats()]


def test_a_path_prefers_the_key_that_is_there() -> None:
    record = {"a.b": 1, "a": {"b": 2, "c.d": {"e": 3}}}
    assert value_at(record, "a.b") == 1
    assert value_at(record, "a.c.d.e") == 3
    assert value_at(record, "a.c.e") is None


@pytest.mark.parametrize(
    ("name", "requests", "first"),
    [
        ("litellm.csv", 2, 480),
        ("openai-usage.jsonl", 5, 300),
        ("aiperf.jsonl", 4, 550),
        ("prompt-completion.csv", 2, 480),
        ("otel.csv", 2, 300),
        ("azure.tsv", 1, 700),
        ("slow-int.jsonl", 40, 256),
    ],
)
def test_logs_of_others_are_read(tmp_path: Path, name: str, requests: int, first: int) -> None:
    path = SHARED / name
    if not path.is_file():
        pytest.skip(f"the log {name} is not beside this repository")
    workload = read(tmp_path, name, path.read_bytes())
    assert (workload.requests, workload.prompt_tokens[0]) == (requests, first)

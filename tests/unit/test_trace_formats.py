"""Loads of the files of each trace format."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.trace_contents import AZURE, AZURE_COLUMNS, BATCH, SHAREGPT, lines, mooncake
from tests.traces import columns, read, refusal

# ---- CSV


def test_azure_times_have_seven_digits_and_no_final_newline(tmp_path: Path) -> None:
    workload = read(tmp_path, "azure.csv", AZURE)
    assert columns(workload) == AZURE_COLUMNS
    assert workload.name == "azure"
    assert workload.notes == (
        "read as azure",
        "times are dates; those without an offset are taken as UTC",
    )


@pytest.mark.parametrize(
    ("first", "second", "gap_s"),
    [
        ("2024-05-10 00:00:00.009930+00:00", "2024-05-10 00:00:01.009930+00:00", 1.0),
        ("2024-05-10T00:00:00Z", "2024-05-10T00:00:00.000000001Z", 1e-9),
        ("2024-05-10 00:00:00", "2024-05-10 01:00:30+0100", 30.0),
        ("2024-02-28 23:59:59.5-02:30", "2024-02-29 00:00:00-02:30", 0.5),
        ("2023-12-31 23:59:59.9999999", "2024-01-01 00:00:00.0000000", 1e-7),
    ],
)
def test_azure_times_of_all_styles_are_exact(
    tmp_path: Path, first: str, second: str, gap_s: float
) -> None:
    text = f"TIMESTAMP,ContextTokens,GeneratedTokens\n{first},1,1\n{second},1,1\n"
    assert columns(read(tmp_path, "azure.csv", text))[0] == [0.0, gap_s]


def test_azure_may_lack_a_header_and_have_more_columns(tmp_path: Path) -> None:
    bare = AZURE.split("\r\n", 1)[1]
    assert columns(read(tmp_path, "bare.csv", bare)) == AZURE_COLUMNS
    images = "timestamp,NumImages,generatedtokens,contexttokens\n2024-01-01 00:00:00,3,44,374\n"
    assert columns(read(tmp_path, "images.csv", images)) == ([0.0], [374], [44])


def test_burstgpt_drops_failures_and_counts_them(tmp_path: Path) -> None:
    text = (
        "Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type\n"
        "5,ChatGPT,472,18,490,Conversation log\n"
        "45,ChatGPT,0,0,0,Conversation log\n"
        "118,GPT-4,60,0,60,API log\n"
        "205,ChatGPT,36,29,65,API log\n"
    )
    workload = read(tmp_path, "burst.csv", text)
    assert columns(workload) == ([0.0, 200.0], [472, 36], [18, 29])
    dropped = "dropped of 4 rows: 1 without any tokens, 1 without output tokens"
    assert workload.notes[2] == dropped
    kept = read(tmp_path, "burst.csv", text, keep_failed=True)
    assert columns(kept) == ([0.0, 113.0, 200.0], [472, 60, 36], [18, 1, 29])
    assert kept.notes[2:] == (
        "dropped of 4 rows: 1 without any tokens",
        "failed requests kept, with 1 output token each: 1",
    )


def test_burstgpt_sessions_are_numbered_and_api_calls_stand_alone(tmp_path: Path) -> None:
    text = (
        "Timestamp,Session ID,Elapsed time,Model,Request tokens,Response tokens,Total tokens,"
        "Log Type\n"
        "10.0,b,4,GPT-4,9,4,13,Conversation log\n"
        "11.0,,4,GPT-4,9,4,13,API log\n"
        "12.0,a,4,GPT-4,9,4,13,Conversation log\n"
        "13.0,,4,GPT-4,9,4,13,API log\n"
        "14.0,b,4,GPT-4,9,4,13,Conversation log\n"
    )
    session = read(tmp_path, "burst.csv", text).session
    assert session is not None
    assert session.tolist() == [0, 1, 2, 3, 0]


def test_vidur_has_times_or_only_lengths(tmp_path: Path) -> None:
    timed = "arrived_at,num_prefill_tokens,num_decode_tokens\n1.5,374,44\n4.25,396,109\n"
    assert columns(read(tmp_path, "v.csv", timed)) == ([0.0, 2.75], [374, 396], [44, 109])
    bare = "num_prefill_tokens,num_decode_tokens,num_total_tokens,pd_ratio\n3772,54,3826,69.9\n"
    workload = read(tmp_path, "v.csv", bare + bare.split("\n")[1])
    assert columns(workload) == ([0.0, 0.0], [3772, 3772], [54, 54])
    assert workload.notes[1] == "no arrival times: all requests are present at the start"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "request_id,request_type,application_id,arrival_timestamp,batch_size,prompt_size,"
            "token_size\n0,2,0,1,1,4096,32\n1,2,0,1.5,1,8,2\n",
            ([0.0, 0.5], [4096, 8], [32, 2]),
        ),
        (
            "request_id,input_tokens,output_tokens,arrival_time_us\n0,9,3,500\n1,8,2,2500500\n",
            ([0.0, 2.5], [9, 8], [3, 2]),
        ),
        ("input_length,output_length\n512,128\n64,8\n", ([0.0, 0.0], [512, 64], [128, 8])),
    ],
    ids=["splitwise-sim", "blis", "lengths"],
)
def test_other_csv_formats_are_read_by_the_names_of_their_columns(
    tmp_path: Path, text: str, expected: object
) -> None:
    assert columns(read(tmp_path, "trace.csv", text)) == expected


def test_quoted_cells_blank_lines_and_whole_floats_are_read(tmp_path: Path) -> None:
    text = 'input_length,"output_length"\n\n"512", 128.0\n\n64,8\n'
    assert columns(read(tmp_path, "trace.csv", text)) == ([0.0, 0.0], [512, 64], [128, 8])


# ---- JSON


def test_mooncake_times_are_ms_and_blocks_have_512_tokens(tmp_path: Path) -> None:
    text = lines(
        mooncake(27482, 6955, 52, hash_ids=list(range(14))),
        mooncake(30535, 1000, 26, hash_ids=[0, 77]),
    )
    workload = read(tmp_path, "moon.jsonl", text)
    assert columns(workload) == ([0.0, 3.053], [6955, 1000], [52, 26])
    assert workload.prefix_blocks == (tuple(range(14)), (0, 77))
    assert workload.block_tokens == 512
    assert workload.notes == (
        "read as mooncake",
        "times in ms, as Mooncake has them; if not, give --time-unit",
        "blocks of 512 tokens, the largest size that all prompts agree with",
    )


def test_smaller_blocks_are_told_from_their_number(tmp_path: Path) -> None:
    text = lines(mooncake(0, 40, hash_ids=[1, 2, 3]), mooncake(9, 6))
    workload = read(tmp_path, "timed.jsonl", text)
    assert (workload.prefix_blocks, workload.block_tokens) == (((1, 2, 3), ()), 16)


def test_times_with_fractions_and_no_blocks_are_seconds(tmp_path: Path) -> None:
    text = lines(mooncake(1234500.5), mooncake(1234502))
    workload = read(tmp_path, "guide.jsonl", text)
    assert columns(workload)[0] == [0.0, 1.5]
    assert workload.notes[1] == "times in s, as some have fractions; if not, give --time-unit"
    asked = read(tmp_path, "guide.jsonl", text, time_unit="ms")
    assert columns(asked)[0] == [0.0, 0.0015]
    assert asked.notes[1] == "times in ms, as asked"


def test_a_turn_without_a_time_follows_the_one_before(tmp_path: Path) -> None:
    lengths = {"input_length": 6, "output_length": 2}
    text = lines(
        {"session_id": "a", "delay": 0} | lengths,
        {"session_id": "b", "timestamp": 500} | lengths,
        {"session_id": "a", "delay": 1000} | lengths,
        {"session_id": "b", "delay_ms": 250} | lengths,
    )
    workload = read(tmp_path, "sessions.jsonl", text)
    assert columns(workload)[0] == [0.0, 0.5, 0.75, 1.0]
    assert workload.session is not None
    assert workload.session.tolist() == [0, 1, 1, 0]
    assert workload.notes[2].startswith("later turns arrive a stated delay after the turn before")


def test_aliases_of_other_tools_are_known(tmp_path: Path) -> None:
    text = lines(
        {"created_time": 5, "input_tokens": 6, "output_tokens": 2, "priority": 1},
        {"created_time": 9, "input_tokens": 7, "output_tokens": 3, "priority": 1},
    )
    assert columns(read(tmp_path, "d.jsonl", text)) == ([0.0, 0.004], [6, 7], [2, 3])


def test_bailian_turns_belong_to_the_conversation_of_their_root(tmp_path: Path) -> None:
    def turn(chat: int, parent: int, second: float) -> dict[str, Any]:
        others = {"type": "text", "turn": 1, "hash_ids": [5, chat]}
        return mooncake(second, 20, 3, chat_id=chat, parent_chat_id=parent, **others)

    text = lines(turn(1, -1, 61.5), turn(2, -1, 62.0), turn(3, 1, 63.0), turn(4, 3, 64.5))
    workload = read(tmp_path, "bailian.jsonl", text)
    assert columns(workload) == ([0.0, 0.5, 1.5, 3.0], [20] * 4, [3] * 4)
    assert workload.session is not None
    assert workload.session.tolist() == [0, 1, 0, 0]
    assert (workload.block_tokens, workload.notes[1]) == (16, "times in s, as the format has them")


def test_llmservingsim_has_single_requests_and_sessions(tmp_path: Path) -> None:
    turns = [
        {"input_toks": 7, "output_toks": 8, "tool_duration_ns": 2_000_000_000},
        {"input_toks": 9, "output_toks": 1},
    ]
    text = lines(
        {"input_toks": 1472, "output_toks": 133, "arrival_time_ns": 4_000_000_000},
        {"session_id": "s", "arrival_time_ns": 5_000_000_000, "sub_requests": turns},
    )
    workload = read(tmp_path, "l.jsonl", text)
    assert columns(workload) == ([0.0, 1.0, 3.0], [1472, 7, 9], [133, 8, 1])


def test_aibrix_lines_hold_several_requests(tmp_path: Path) -> None:
    text = lines(
        {"timestamp": 11, "requests": [{"Prompt Length": 178, "Output Length": 8, "prompt": "x"}]},
        {"timestamp": 6011, "requests": [{"prompt_length": 5, "output_length": 6}] * 2},
    )
    assert columns(read(tmp_path, "a.jsonl", text)) == ([0, 6, 6], [178, 5, 5], [8, 6, 6])


def test_dynamo_requests_are_inside_events(tmp_path: Path) -> None:
    def event(received_ms: int, hashes: list[int]) -> dict[str, Any]:
        replay = {"trace_block_size": 64, "input_sequence_hashes": hashes}
        request = {"input_tokens": 100, "output_tokens": 7, "request_received_ms": received_ms}
        schema = "dynamo.request.trace.v1"
        inside = {"schema": schema, "request": request | {"replay": replay}}
        return {"timestamp": 999_999, "event": inside}

    other = {"timestamp": 1, "event": {"schema": "dynamo.request.trace.v1"}}
    workload = read(
        tmp_path, "d.jsonl", lines(event(10, [1, 2]), other, event(510, [1, 2**63 + 5]))
    )
    assert columns(workload) == ([0.0, 0.5], [100, 100], [7, 7])
    assert (workload.prefix_blocks, workload.block_tokens) == (((1, 2), (1, 2**63 + 5)), 64)
    assert workload.notes[-1] == "dropped of 3 rows: 1 without a request"


def test_lengths_alone_are_present_at_the_start(tmp_path: Path) -> None:
    text = lines(
        {"input_length": 512, "output_length": 128}, {"input_length": 3, "output_length": 1}
    )
    assert columns(read(tmp_path, "l.jsonl", text)) == ([0.0, 0.0], [512, 3], [128, 1])


# ---- texts


def test_openai_batches_generate_what_they_allow(tmp_path: Path) -> None:
    workload = read(tmp_path, "b.jsonl", BATCH, chars_per_token=4.0)
    assert columns(workload) == ([0.0] * 3, [4, 3, 3], [1000, 5, 6])
    assert workload.notes[-1] == (
        "output lengths are max_tokens, an upper bound; chat templates are not counted"
    )


@pytest.mark.parametrize(
    "text",
    [json.dumps(SHAREGPT), json.dumps(SHAREGPT, indent=2), lines(*SHAREGPT)],
    ids=["array", "indented", "lines"],
)
def test_sharegpt_takes_the_first_two_turns(tmp_path: Path, text: str) -> None:
    workload = read(tmp_path, "s.json", text, chars_per_token=4.0)
    assert columns(workload) == ([0.0, 0.0], [3, 1], [1, 1])
    assert workload.notes[2] == "dropped of 3 rows: 1 with fewer than 2 turns"


def test_prompts_state_their_output(tmp_path: Path) -> None:
    text = lines(
        {"prompt": "a" * 8, "output_tokens": 5},
        {"text_input": "b" * 4, "output_length": 6},
        {"text": "c", "output_tokens": 7},
    )
    workload = read(tmp_path, "p.jsonl", text, chars_per_token=4.0)
    assert columns(workload) == ([0.0] * 3, [2, 1, 1], [5, 6, 7])


def test_texts_need_a_way_to_count_tokens(tmp_path: Path) -> None:
    assert refusal(tmp_path, "b.jsonl", BATCH) == (
        "b.jsonl: the file has texts and no lengths: give --tokenizer tokenizer.json, or "
        "--chars-per-token (about 4 for English)"
    )
    assert refusal(tmp_path, "b.jsonl", BATCH, chars_per_token=0.0) == (
        "--chars-per-token: expected 0.01 to 1e+06, got 0"
    )
    both = {"chars_per_token": 4.0, "tokenizer": tmp_path / "tokenizer.json"}
    assert refusal(tmp_path, "b.jsonl", BATCH, **both) == (
        "expected --tokenizer or --chars-per-token, got both"
    )


def test_a_tokenizer_needs_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    assert refusal(tmp_path, "b.jsonl", BATCH, tokenizer=tmp_path / "tokenizer.json") == (
        "--tokenizer needs the package tokenizers: pip install tokenizers; or give "
        "--chars-per-token"
    )


def test_a_tokenizer_counts_tokens(tmp_path: Path) -> None:
    pytest.importorskip("tokenizers", reason="the package tokenizers is not installed")
    words = {"type": "WordLevel", "vocab": {"a": 0, "?": 1}, "unk_token": "?"}
    content = {"version": "1.0", "model": words, "pre_tokenizer": {"type": "Whitespace"}}
    tokenizer = tmp_path / "tokenizer.json"
    tokenizer.write_text(json.dumps(content))
    text = lines({"prompt": "a b a", "output_tokens": 5})
    assert columns(read(tmp_path, "p.jsonl", text, tokenizer=tokenizer)) == ([0.0], [3], [5])
    tokenizer.write_text("{}")
    message = refusal(tmp_path, "p.jsonl", text, tokenizer=tokenizer)
    assert message.startswith("tokenizer.json: not a tokenizer.json: ")
    message = refusal(tmp_path, "p.jsonl", text, tokenizer=tmp_path)
    assert message == f"--tokenizer: expected a file tokenizer.json, got {tmp_path}"

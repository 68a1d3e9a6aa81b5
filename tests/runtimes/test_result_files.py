"""Result files: written whole, kept whatever happens, taken up where they were left."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.errors import InputError
from runtimes.base import Completion, EndedBy, Sampling, TokenRequest
from runtimes.deployment.generation_config import TextModel, load_text_model
from runtimes.deployment.requests import (
    CHAT,
    TEXT,
    AcceptedRequest,
    Endpoint,
    RejectedRequest,
    RequestSet,
)
from runtimes.deployment.result_files import open_results
from runtimes.deployment.result_lines import UsageTotals, completion_line, read_result, usage_totals
from tests.runtimes.results_of_tests import (
    ALL,
    MODEL,
    NAMES,
    REFUSED,
    answer,
    asked,
    lines_of,
    write,
)
from tests.runtimes.tokenizers_of_tests import END_ID, save_tokenizer

# ---- what is written


def test_a_completion_has_the_form_of_a_batchs_output(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path, RequestSet((asked("a"),)))
    digest = asked("a").digest("tiny")[:24]
    assert lines_of(path) == [
        {
            "id": f"batch_req_{digest}",
            "custom_id": "a",
            "response": {
                "status_code": 200,
                "request_id": f"req_{digest}",
                "body": {
                    "id": f"cmpl-{digest}",
                    "object": "text_completion",
                    "created": 0,
                    "model": "tiny",
                    "choices": [
                        {
                            "index": 0,
                            "text": None,
                            "logprobs": None,
                            "finish_reason": "length",
                            "token_ids": [1, 8, END_ID],
                        }
                    ],
                    "usage": {"prompt_tokens": 2, "completion_tokens": 3, "total_tokens": 5},
                },
            },
            "error": None,
        }
    ]


@pytest.mark.parametrize("endpoint", [TEXT, CHAT])
@pytest.mark.parametrize("ended_by", ["stop", "length"])
def test_the_text_is_decoded_without_the_token_that_ended_it(
    tmp_path: Path, endpoint: Endpoint, ended_by: EndedBy
) -> None:
    pytest.importorskip("transformers")
    save_tokenizer(tmp_path / "tiny")
    model = load_text_model("tiny", 1000, tmp_path / "tiny")
    assert model.tokenizer is not None
    tokens = model.tokenizer.encode_piece("return é\n")
    item = replace(asked("a"), endpoint=endpoint)
    line = completion_line(item, Completion(0, tokens, ended_by), model)
    (choice,) = json.loads(line)["response"]["body"]["choices"]
    text = choice["message"]["content"] if endpoint == CHAT else choice["text"]
    assert text == ("return é" if ended_by == "stop" else "return é\n")
    assert choice["finish_reason"] == ended_by
    assert tuple(choice["token_ids"]) == tokens
    if endpoint == CHAT:
        assert choice["message"]["role"] == "assistant"
        assert json.loads(line)["response"]["body"]["object"] == "chat.completion"


def test_refused_requests_come_first_and_all_are_counted(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    totals = write(path)
    lines = lines_of(path)
    assert [line["custom_id"] for line in lines] == ["r", None, *NAMES]
    assert lines[0]["response"] is None
    assert lines[0]["error"] == {"code": "invalid_request", "message": "in.jsonl line 4: no"}
    assert len({line["id"] for line in lines}) == 5
    assert totals == UsageTotals(served=3, rejected=2, prompt_tokens=6, completion_tokens=9)
    assert (
        usage_totals(read_result(line, path.name) for line in path.read_bytes().splitlines())
        == totals
    )


def test_a_line_is_in_the_file_as_soon_as_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with open_results(path, ALL, MODEL) as writer:
        for position, item in enumerate(writer.pending):
            writer.write_completion(answer(position, item))
            assert len(lines_of(path)) == len(REFUSED) + position + 1


def test_results_stand_in_the_order_in_which_requests_finish(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    with open_results(path, ALL, MODEL) as writer:
        for position in (2, 0, 1):
            writer.write_completion(answer(position, writer.pending[position]))
    assert [line["custom_id"] for line in lines_of(path)[2:]] == [NAMES[i] for i in (2, 0, 1)]


def test_the_digest_changes_with_all_that_the_answer_follows_from_and_nothing_else() -> None:
    drawn = Sampling(0.5, 3, 0.9, seed=1)
    base = AcceptedRequest(TokenRequest("a", (5, 6), 3, drawn, (1,)))
    changes: list[dict[str, Any]] = [
        {"name": "b"}, {"prompt": (5, 7)}, {"output_tokens": 4}, {"stop_tokens": ()},
        {"sampling": replace(drawn, temperature=0.6)}, {"sampling": replace(drawn, top_k=4)},
        {"sampling": replace(drawn, top_p=0.8)}, {"sampling": replace(drawn, seed=2)},
    ]  # fmt: skip
    others = [AcceptedRequest(replace(base.tokens, **change)) for change in changes]
    digests = [item.digest("m") for item in [base, *others, replace(base, endpoint=CHAT)]]
    assert len({*digests, base.digest("n")}) == len(changes) + 3
    later = AcceptedRequest(replace(base.tokens, arrival_s=4.0, stop_tokens=(1, 1)))
    assert later.digest("m") == base.digest("m")
    assert asked("a", sampling=Sampling(seed=1)).digest("m") == asked("a").digest("m")


# ---- taking a file up again


@given(finished=st.integers(0, len(NAMES)), kept=st.integers(0, len(NAMES)))
def test_an_interrupted_run_taken_up_again_gives_the_bytes_of_a_whole_one(
    tmp_path_factory: pytest.TempPathFactory, finished: int, kept: int
) -> None:
    folder = tmp_path_factory.mktemp("results")
    whole = write(folder / "whole")
    write(folder / "parts", most=finished)
    write(folder / "parts", most=kept, resume=True)
    assert write(folder / "parts", resume=True) == whole
    assert (folder / "parts").read_bytes() == (folder / "whole").read_bytes()


def test_a_file_cut_at_any_byte_is_completed_to_the_same_bytes(tmp_path: Path) -> None:
    write(tmp_path / "whole")
    content = (tmp_path / "whole").read_bytes()
    path = tmp_path / "cut"
    last_line = content.rfind(b"\n", 0, -1)
    for length in [*range(0, last_line, 11), *range(last_line, len(content) + 1)]:
        path.write_bytes(content[:length])
        with open_results(path, ALL, MODEL, resume=True) as writer:
            done = content[:length].count(b'"error": null}\n')
            assert [item.tokens.name for item in writer.pending] == list(NAMES[done:])
            for position, item in enumerate(writer.pending):
                writer.write_completion(answer(position, item))
        assert path.read_bytes() == content


def test_resuming_without_a_file_begins_one(tmp_path: Path) -> None:
    write(tmp_path / "one", resume=True)
    write(tmp_path / "two")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_an_empty_file_is_as_good_as_none(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    path.touch()
    write(path)
    assert len(lines_of(path)) == 5


def test_a_request_no_longer_refused_is_answered_and_its_refusal_dropped(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path)
    mended = RequestSet((*ALL.accepted, asked("r")), REFUSED[1:])
    totals = write(path, mended, resume=True)
    assert [line["custom_id"] for line in lines_of(path)] == [None, *NAMES, "r"]
    assert totals == UsageTotals(4, 1, 8, 12)


def test_a_repeated_line_is_kept_once(tmp_path: Path) -> None:
    path = tmp_path / "out.jsonl"
    write(path)
    content = path.read_bytes()
    path.write_bytes(content + content)
    assert write(path, resume=True).served == 3
    assert path.read_bytes() == content


CHANGED = "'a', which is now asked in other words, of another model or in other weight formats"
HINT = (
    "give another --out, or the requests, the plan, the model and the seed that this file was "
    "written for"
)


@pytest.mark.parametrize(
    ("requests", "model", "found"),
    [
        (RequestSet((asked("z"),), REFUSED), MODEL, "'a', which is not asked"),
        (RequestSet((asked("a", stop_tokens=(1,)),), REFUSED), MODEL, CHANGED),
        (ALL, replace(MODEL, name="n"), CHANGED),
        (ALL, replace(MODEL, stored="in other formats"), CHANGED),
        (RequestSet((), (RejectedRequest("a", "c", "m"),)), MODEL, CHANGED),
    ],
)
def test_answers_to_anything_else_are_refused_and_left_alone(
    tmp_path: Path, requests: RequestSet, model: TextModel, found: str
) -> None:
    path = tmp_path / "out.jsonl"
    write(path)
    content = path.read_bytes()
    with pytest.raises(InputError) as caught:
        write(path, requests, resume=True, model=model)
    assert str(caught.value) == (
        f"out.jsonl line 3: expected answers to the requests, got the answer to {found}: {HINT}"
    )
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}\n", "out.jsonl line 1.id: expected a text, but it is missing"),
        (b"\n", "out.jsonl line 1: not JSON at line 1, column 1: Expecting value"),
        (b"\xff\n", "out.jsonl line 1: expected a result, got bytes that are no UTF-8 text"),
        (b'{"id": "x"}\n', "out.jsonl line 1.id: expected batch_req_ and a hash, got 'x'"),
        (b'{"id": "batch_req_0"}\n', "out.jsonl line 1.response: expected a value, but it is "
         "missing"),
        (b'{"id": "batch_req_0", "response": {"body": {"usage": {}}}}\n',
         "out.jsonl line 1.response.body.usage.prompt_tokens: expected a whole number of at least "
         "1, but it is missing"),
        (b'{"id": "batch_req_0", "error": {}, "more": 1}\n',
         "out.jsonl line 1: unknown keys ['more']; known are: custom_id, error, id, response"),
        (b"my notes", "out.jsonl line 1: expected a result or the beginning of one, got something "
         "else: give another --out"),
        (b"\0\0\0", "out.jsonl line 1: expected a result or the beginning of one, got something "
         "else: give another --out"),
    ],
)  # fmt: skip
def test_a_file_of_something_else_is_refused_and_left_alone(
    tmp_path: Path, content: bytes, message: str
) -> None:
    path = tmp_path / "out.jsonl"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_results(path, ALL, MODEL, resume=True)
    assert str(caught.value) == message
    assert path.read_bytes() == content


@pytest.mark.parametrize(
    ("kept", "count"), [(None, "5 lines"), (1, "1 line"), (0, "a partial line")]
)
def test_without_resume_a_file_with_results_is_refused_and_left_alone(
    tmp_path: Path, kept: int | None, count: str
) -> None:
    path = tmp_path / "out.jsonl"
    write(path)
    content = b"".join(path.read_bytes().splitlines(keepends=True)[:kept]) or b"{"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        open_results(path, ALL, MODEL)
    assert str(caught.value) == (
        f"{path}: expected no such file yet, got one with {count}: give --resume to go on from "
        "it, or another --out"
    )
    assert path.read_bytes() == content


def test_a_file_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "none" / "out.jsonl"
    with pytest.raises(InputError) as caught:
        open_results(path, ALL, MODEL)
    folder = path.resolve().parent
    assert str(caught.value) == f"cannot write {path}: there is no folder {folder}"


@pytest.mark.parametrize("resume", [False, True])
def test_a_device_is_no_file_for_results(resume: bool) -> None:
    with pytest.raises(InputError) as caught:
        open_results(Path("/dev/full"), ALL, MODEL, resume=resume)
    assert str(caught.value) == "cannot write /dev/full: it is not a regular file"

"""Refusals of requests: a bad one alone, a bad file as a whole, with a message that helps."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.errors import InputError
from runtimes.base import TokenRequest
from runtimes.deployment.generation_config import TextModel
from runtimes.deployment.request_files import read_requests
from runtimes.deployment.requests import (
    INVALID,
    TOO_LONG,
    UNSUPPORTED,
    AcceptedRequest,
    RejectedRequest,
    RequestSet,
    divided_by_length,
)
from tests.runtimes.requests_of_tests import LIMITS, PLAIN, chat, line, read, tiny_model

NO_TOKENIZER = (
    "the model folder has no tokenizer to read a text with: add its tokenizer.json and "
    "tokenizer_config.json, or give prompt as a list of token ids to /v1/completions"
)
LONGER = "shorten the request, or plan for longer ones (llmpq search"

model = pytest.fixture(scope="module")(tiny_model)


def refusal(folder: Path, model: TextModel, item: object) -> tuple[str, str]:
    """Return code and message with which the only request of a file is refused."""
    found = read(folder, model, item)
    assert found.accepted == ()
    return found.rejected[0].code, found.rejected[0].message


@pytest.mark.parametrize(
    ("item", "code", "message"),
    [
        ("{", INVALID, ": not JSON at line 1, column 2: Expecting property name enclosed in double "
         "quotes"),
        ("[1]", INVALID, ": expected a mapping, got a list"),
        ({}, INVALID, ".custom_id: expected a text, but it is missing"),
        (line({}, custom_id=3), INVALID, ".custom_id: expected a text, got 3"),
        (line({}, method="GET"), INVALID, ".method: expected one of POST, got 'GET'"),
        (line({}, url="/v1/embeddings"), INVALID, ".url: expected one of /v1/chat/completions, "
         "/v1/completions, got '/v1/embeddings'"),
        (line(None), INVALID, ".body: expected a value, but it is missing"),
        (line([]), INVALID, ".body: expected a mapping, got a list"),
        (line({"prompt": [5]}, more=1), INVALID, ": unknown keys ['more']; known are: body, "
         "custom_id, method, url"),
        (line({}), INVALID, ".body.prompt: expected a value, but it is missing"),
        (line({"prompt": 3}), INVALID, ".body.prompt: expected one text or one list of token ids, "
         "got 3"),
        (line({"prompt": ["a", "b"]}), INVALID, ".body.prompt: expected one text or one list of "
         "token ids, got a list of prompts"),
        (line({"prompt": []}), INVALID, ".body.prompt: expected at least one token, got none"),
        (line({"prompt": [5, 1000]}), INVALID, ".body.prompt: expected token ids from 0 to 999, "
         "got 1000"),
        (line({"prompt": [-1]}), INVALID, ".body.prompt: expected token ids from 0 to 999, got -1"),
        (line({"prompt": "a"}), INVALID, f".body.prompt: {NO_TOKENIZER}"),
        (chat({"role": "user", "content": "a"}), INVALID, f".body.messages: {NO_TOKENIZER}"),
        (line({"prompt": [5], "stop": "a"}), INVALID, f".body.stop: {NO_TOKENIZER}"),
        (chat(), INVALID, ".body.messages: expected at least one message, got none"),
        (chat({"role": "user"}), INVALID, ".body.messages[0].content: expected a value, but it is "
         "missing"),
        (chat({"role": "user", "content": 1}), INVALID, ".body.messages[0].content: expected a "
         "text, got 1"),
        (chat({"content": "a"}), INVALID, ".body.messages[0].role: expected a text, but it is "
         "missing"),
        (chat({"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}), INVALID,
         ".body.messages[0].content[0].type: expected one of text, got 'image_url'"),
        (chat({"role": "user", "content": [{"type": "text", "text": 4}]}), INVALID,
         ".body.messages[0].content[0].text: expected a text, got 4"),
        (line({"prompt": [5], "max_tokens": 0}), INVALID, ".body.max_tokens: expected a whole "
         "number of at least 1, got 0"),
        (line({"prompt": [5], "max_tokens": 3, "max_completion_tokens": 4}), INVALID, ".body: "
         "expected max_tokens or max_completion_tokens, got both: 3 and 4"),
        (line({"prompt": [5], "temperature": -0.1}), INVALID, ".body.temperature: expected a "
         "number of at least 0, got -0.1"),
        (line({"prompt": [5], "top_p": 1.5}), INVALID, ".body.top_p: expected a number above 0 and "
         "at most 1, got 1.5"),
        (line({"prompt": [5], "top_k": -2}), INVALID, ".body.top_k: expected a whole number of at "
         "least -1, got -2"),
        (line({"prompt": [5], "seed": 0.5}), INVALID, ".body.seed: expected a whole number of at "
         "least -1000000000000000000, got 0.5"),
        (line({"prompt": [5], "ignore_eos": 1}), INVALID, ".body.ignore_eos: expected true or "
         "false, got 1"),
        (line({"prompt": [5], "stop": 4}), INVALID, ".body.stop: expected a text or a list of "
         "texts, got 4"),
        (line({"prompt": [5], "stop": [""]}), INVALID, ".body.stop: expected a text or a list of "
         "texts, got ''"),
        (line({"prompt": [5], "stop_token_ids": ["a"]}), INVALID, ".body.stop_token_ids: expected "
         "token ids, got 'a'"),
        (line({"prompt": [5], "stop_token_ids": [1000]}), INVALID, ".body.stop_token_ids: expected "
         "token ids from 0 to 999, got 1000"),
        (line({"prompt": [5], "n": 2}), UNSUPPORTED, ".body.n: expected nothing or 1, as no more "
         "is supported, got 2"),
        (line({"prompt": [5], "n": True}), UNSUPPORTED, ".body.n: expected nothing or 1, as no "
         "more is supported, got True"),
        (line({"prompt": [5], "stream": True}), UNSUPPORTED, ".body.stream: expected nothing or "
         "false, as no more is supported, got True"),
        (line({"prompt": [5], "logprobs": 0}), UNSUPPORTED, ".body.logprobs: expected nothing or "
         "false, as no more is supported, got 0"),
        (line({"prompt": [5], "tool_choice": "required"}), UNSUPPORTED, ".body.tool_choice: "
         "expected nothing or \"none\" or \"auto\", as no more is supported, got 'required'"),
        (line({"prompt": [5] * 41, "max_tokens": 1}), TOO_LONG, ": the prompt has 41 tokens, but "
         f"the plan holds prompts of at most 40: {LONGER} --prompt-tokens 41 --output-tokens 1)"),
        (line({"prompt": [5], "max_tokens": 31}), TOO_LONG, ": 31 tokens are to be generated, but "
         f"the plan holds outputs of at most 30: {LONGER} --prompt-tokens 1 --output-tokens 31)"),
        (line({"prompt": [5] * 40, "max_tokens": 21}), TOO_LONG, ": 40 tokens of prompt and 21 to "
         f"generate are 61, but the plan holds at most 60 of a request: {LONGER} "
         "--prompt-tokens 40 --output-tokens 21)"),
    ],
)  # fmt: skip
def test_a_bad_request_is_refused_alone_with_a_message(
    tmp_path: Path, item: object, code: str, message: str
) -> None:
    assert refusal(tmp_path, PLAIN, item) == (code, f"in.jsonl line 1{message}")


def test_a_request_with_an_unknown_key_is_told_the_known_ones(tmp_path: Path) -> None:
    code, message = refusal(tmp_path, PLAIN, line({"prompt": [5], "max_token": 3}))
    assert code == INVALID
    assert message.startswith("in.jsonl line 1.body: unknown keys ['max_token']; known are: ")
    assert "max_tokens" in message


def test_a_stop_text_of_several_tokens_is_refused(tmp_path: Path, model: TextModel) -> None:
    assert model.tokenizer is not None
    count = len(model.tokenizer.encode_piece("zebra"))
    assert count > 1
    assert refusal(tmp_path, model, line({"prompt": [5], "stop": ["\n", "zebra"]})) == (
        UNSUPPORTED,
        "in.jsonl line 1.body.stop: expected texts of one token, as generation stops at tokens, "
        f"got 'zebra' of {count} tokens: leave it out and cut the output yourself",
    )


def test_what_the_chat_template_refuses_is_refused(tmp_path: Path, model: TextModel) -> None:
    assert refusal(tmp_path, model, chat({"role": "robot", "content": "a"})) == (
        INVALID,
        "in.jsonl line 1.body.messages: tiny: the chat template refuses the messages: no role is "
        "called robot",
    )


def test_a_tokenizer_that_does_not_fit_the_model_is_told(tmp_path: Path, model: TextModel) -> None:
    asked = line({"prompt": "return"})
    assert refusal(tmp_path, replace(model, vocabulary_tokens=3), asked)[1].startswith(
        "in.jsonl line 1.body.prompt: expected token ids from 0 to 2, got "
    )


def test_bad_lines_leave_the_others_alone_and_keep_their_names(tmp_path: Path) -> None:
    found = read(
        tmp_path,
        PLAIN,
        line({"prompt": []}),
        "{",
        line({"prompt": [5]}, custom_id="c"),
        line({"prompt": [5]}, custom_id=""),
    )
    assert [asked.tokens.name for asked in found.accepted] == ["c"]
    assert [(rejected.name, rejected.message.split(":")[0]) for rejected in found.rejected] == [
        ("a", "in.jsonl line 1.body.prompt"),
        (None, "in.jsonl line 2"),
        (None, "in.jsonl line 4.custom_id"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "in.jsonl: expected requests, but the file has none"),
        (b"\n \n", "in.jsonl: expected requests, but the file has none"),
        (b"\xff", "in.jsonl: expected UTF-8 text, got byte 0xff at offset 0"),
    ],
)
def test_a_file_without_requests_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "in.jsonl").write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_requests(tmp_path / "in.jsonl", PLAIN, LIMITS)
    assert str(caught.value) == message


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_requests(tmp_path / "none", PLAIN, LIMITS)
    assert str(caught.value) == f"cannot read {tmp_path / 'none'}: No such file or directory"


@pytest.mark.parametrize("first", [[5], []])
def test_a_name_given_twice_refuses_the_file_even_if_one_request_is_bad(
    tmp_path: Path, first: list[int]
) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, PLAIN, line({"prompt": first}), "", line({"prompt": [6]}))
    assert str(caught.value) == (
        "in.jsonl line 3: expected distinct custom_ids, got 'a', which line 1 has, too"
    )


@given(prompt=st.integers(1, 50), output=st.integers(1, 50))
def test_synthetic_requests_are_divided_by_what_the_plan_holds(prompt: int, output: int) -> None:
    asked = TokenRequest("s", (5,) * prompt, output)
    found = divided_by_length([asked], LIMITS)
    if prompt <= 40 and output <= 30 and prompt + output <= 60:
        assert found == RequestSet((AcceptedRequest(asked),))
    else:
        assert found.accepted == ()
        (rejected,) = found.rejected
        assert rejected == RejectedRequest("s", TOO_LONG, rejected.message)
        assert rejected.message.startswith("s: ")

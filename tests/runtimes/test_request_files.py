"""Is each line of a batch read for itself, and refused with a message that helps?"""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.errors import InputError
from runtimes.asked_requests import (
    CHAT,
    INVALID,
    TEXT,
    TOO_LONG,
    UNSUPPORTED,
    AskedRequest,
    PlanLimits,
    RefusedRequest,
    RequestSet,
    divided_by_length,
)
from runtimes.base import Sampling, TokenRequest
from runtimes.request_bodies import named_seed
from runtimes.request_files import read_requests
from runtimes.text_model import TextModel, load_text_model
from tests.runtimes.tokenizers_of_tests import END_ID, save_tokenizer

pytest.importorskip("transformers")

LIMITS = PlanLimits(longest_prompt_tokens=40, longest_context_tokens=60, longest_output_tokens=30)
PLAIN = TextModel("m", 1000, stop_tokens=(1,))
"""A model without tokenizer."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_tokenizer(folder)
    return load_text_model("tiny", 1000, folder)


def line(body: object, **others: object) -> dict[str, object]:
    """Return a line that asks for a completion."""
    return {"custom_id": "a", "method": "POST", "url": TEXT, "body": body} | others


def chat(*messages: object, **others: object) -> dict[str, object]:
    """Return a line that asks for an answer."""
    return line({"messages": list(messages)} | others, url=CHAT)


def read(folder: Path, model: TextModel, *lines: object, **options: Any) -> RequestSet:
    """Return what a file with these lines asks."""
    path = folder / "in.jsonl"
    texts = [item if isinstance(item, str) else json.dumps(item) for item in lines]
    path.write_text("\n".join(texts), encoding="utf-8")
    return read_requests(path, model, **{"limits": LIMITS} | options)


def request(folder: Path, model: TextModel, item: object, **options: Any) -> TokenRequest:
    """Return the only request of a file, which must be accepted."""
    found = read(folder, model, item, **options)
    assert found.refused == ()
    return found.accepted[0].tokens


def refusal(folder: Path, model: TextModel, item: object) -> tuple[str, str]:
    """Return code and message with which the only request of a file is refused."""
    found = read(folder, model, item)
    assert found.accepted == ()
    return found.refused[0].code, found.refused[0].message


# ---- what is accepted


def test_a_prompt_and_a_conversation_are_read_with_the_models_tokenizer(
    tmp_path: Path, model: TextModel
) -> None:
    messages = [{"role": "system", "content": ""}, {"role": "user", "content": "a\nb"}]
    found = read(
        tmp_path,
        model,
        line({"model": "any", "prompt": "def f():\n  pass", "max_tokens": 3}),
        "",
        chat(*messages, max_completion_tokens=4) | {"custom_id": "b"},
    )
    assert model.tokenizer is not None
    assert found == RequestSet(
        (
            AskedRequest(
                TokenRequest(
                    "a",
                    model.tokenizer.encode("def f():\n  pass"),
                    3,
                    Sampling(seed=named_seed(0, "a")),
                    (END_ID,),
                ),
                TEXT,
            ),
            AskedRequest(
                TokenRequest(
                    "b",
                    model.tokenizer.encode_chat(messages),
                    4,
                    Sampling(seed=named_seed(0, "b")),
                    (END_ID,),
                ),
                CHAT,
            ),
        )
    )


def test_parts_of_a_message_are_joined_by_line_ends(tmp_path: Path, model: TextModel) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    one = request(tmp_path, model, chat({"role": "user", "content": parts, "name": "x"}))
    assert one == request(tmp_path, model, chat({"role": "user", "content": "a\nb"}))


@given(prompt=st.lists(st.integers(0, 999), min_size=1, max_size=40), output=st.integers(1, 20))
def test_token_ids_need_no_tokenizer(
    tmp_path_factory: pytest.TempPathFactory, prompt: list[int], output: int
) -> None:
    asked = request(
        tmp_path_factory.getbasetemp(), PLAIN, line({"prompt": prompt, "max_tokens": output})
    )
    assert (asked.prompt, asked.output_tokens) == (tuple(prompt), output)


def test_a_packed_file_with_a_byte_order_mark_is_read_as_well(tmp_path: Path) -> None:
    path = tmp_path / "in.jsonl.gz"
    text = json.dumps(line({"prompt": [5]}))
    path.write_bytes(gzip.compress(b"\xef\xbb\xbf" + text.encode() + b"\r\n\r\n"))
    assert read_requests(path, PLAIN, LIMITS).accepted[0].tokens.prompt == (5,)


@pytest.mark.parametrize(
    ("url", "body", "limits", "output_tokens"),
    [
        (TEXT, {}, LIMITS, 16),
        (TEXT, {}, PlanLimits(40, 60, 9), 9),
        (TEXT, {}, PlanLimits(40, 42), 2),
        (CHAT, {}, LIMITS, 30),
        (CHAT, {}, PlanLimits(40, 60), None),
        (TEXT, {"max_tokens": 5, "max_completion_tokens": 5}, LIMITS, 5),
    ],
)
def test_without_a_limit_a_completion_gets_16_tokens_and_an_answer_what_the_plan_holds(
    tmp_path: Path,
    model: TextModel,
    url: str,
    body: dict[str, object],
    limits: PlanLimits,
    output_tokens: int | None,
) -> None:
    item = chat({"role": "user", "content": "hello"}) if url == CHAT else line({"prompt": [7] * 40})
    item["body"] = {**item["body"], **body}  # type: ignore[dict-item]
    asked = request(tmp_path, model, item, limits=limits)
    assert asked.output_tokens == (output_tokens or 60 - len(asked.prompt))


@pytest.mark.parametrize(
    ("default", "body", "expected"),
    [
        (Sampling(), {}, Sampling()),
        (Sampling(), {"temperature": 0.5}, Sampling(0.5)),
        (Sampling(), {"top_p": 0.9}, Sampling(1.0, top_p=0.9)),
        (Sampling(), {"top_k": 3}, Sampling(1.0, top_k=3)),
        (Sampling(), {"top_k": 3, "temperature": 0}, Sampling(0.0, top_k=3)),
        (Sampling(0.6, 20, 0.9), {}, Sampling(0.6, 20, 0.9)),
        (Sampling(0.6, 20, 0.9), {"top_p": 0.5}, Sampling(0.6, 20, 0.5)),
        (Sampling(0.6, 20, 0.9), {"temperature": 0, "top_k": -1}, Sampling(0.0, 0, 0.9)),
    ],
)
def test_the_request_then_the_folder_then_greedy_say_how_tokens_are_chosen(
    tmp_path: Path, default: Sampling, body: dict[str, object], expected: Sampling
) -> None:
    asked = request(
        tmp_path, replace(PLAIN, sampling=default), line({"prompt": [5], "seed": 4} | body)
    )
    assert asked.sampling == replace(expected, seed=4)


def test_seeds_follow_from_the_run_and_the_name_where_a_request_has_none(tmp_path: Path) -> None:
    items = [line({"prompt": [5]}), line({"prompt": [5]}, custom_id="b")]
    seeds = [
        [asked.tokens.sampling.seed for asked in read(tmp_path, PLAIN, *items, seed=seed).accepted]
        for seed in (0, 0, 1)
    ]
    assert seeds[0] == seeds[1]
    assert len({*seeds[0], *seeds[2]}) == 4
    negative = request(tmp_path, PLAIN, line({"prompt": [5], "seed": -1}))
    assert negative.sampling.seed == 2**63 - 1


@pytest.mark.parametrize(
    ("body", "stop_tokens"),
    [
        ({}, (END_ID,)),
        ({"ignore_eos": True}, ()),
        ({"ignore_eos": True, "stop_token_ids": [9, 4, 9]}, (4, 9)),
        ({"stop": "<|padding|>"}, (END_ID, 2)),
        ({"stop": ["<|padding|>", "<|begin|>"], "ignore_eos": True}, (0, 2)),
        ({"stop": []}, (END_ID,)),
    ],
)
def test_a_sequence_ends_at_the_models_ends_and_the_requests_own(
    tmp_path: Path, model: TextModel, body: dict[str, object], stop_tokens: tuple[int, ...]
) -> None:
    asked = request(tmp_path, model, line({"prompt": [5]} | body))
    assert asked.stop_tokens == stop_tokens


def test_what_asks_for_nothing_is_accepted(tmp_path: Path) -> None:
    neutral = {
        "n": 1, "stream": False, "logprobs": False, "frequency_penalty": 0.0, "tools": [],
        "presence_penalty": 0, "response_format": {"type": "text"}, "logit_bias": {}, "user": "u",
        "stop": None, "seed": None, "stream_options": None, "suffix": None, "best_of": 1,
        "metadata": {"k": "v"}, "max_tokens": None, "tool_choice": "auto", "min_tokens": 0,
    }  # fmt: skip
    asked = request(tmp_path, PLAIN, line({"prompt": [5]} | neutral))
    assert asked == request(tmp_path, PLAIN, line({"prompt": [5]}))


# ---- what is refused

NO_TOKENIZER = (
    "the model folder has no tokenizer to read a text with: add its tokenizer.json and "
    "tokenizer_config.json, or give prompt as a list of token ids to /v1/completions"
)
LONGER = "shorten the request, or plan for longer ones (llmpq search"


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
    assert [(refused.name, refused.message.split(":")[0]) for refused in found.refused] == [
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
        assert found == RequestSet((AskedRequest(asked),))
    else:
        assert found.accepted == ()
        (refused,) = found.refused
        assert refused == RefusedRequest("s", TOO_LONG, refused.message)
        assert refused.message.startswith("s: ")

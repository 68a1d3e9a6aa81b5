"""Request files: what the lines of a batch ask, each read for itself."""

import gzip
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtimes.base import Sampling, TokenRequest
from runtimes.deployment.generation_config import TextModel
from runtimes.deployment.request_bodies import named_seed
from runtimes.deployment.request_files import read_requests
from runtimes.deployment.requests import CHAT, TEXT, AcceptedRequest, PlanLimits, RequestSet
from tests.runtimes.requests_of_tests import LIMITS, PLAIN, chat, line, read, tiny_model
from tests.runtimes.tokenizers_of_tests import END_ID

model = pytest.fixture(scope="module")(tiny_model)


def request(folder: Path, model: TextModel, item: object, **options: Any) -> TokenRequest:
    """Return the only request of a file, which must be accepted."""
    found = read(folder, model, item, **options)
    assert found.rejected == ()
    return found.accepted[0].tokens


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
            AcceptedRequest(
                TokenRequest(
                    "a",
                    model.tokenizer.encode("def f():\n  pass"),
                    3,
                    Sampling(seed=named_seed(0, "a")),
                    (END_ID,),
                ),
                TEXT,
            ),
            AcceptedRequest(
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

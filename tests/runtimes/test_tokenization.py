"""Tokenization of texts as transformers does it, and facts of model folders."""

import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.errors import InputError
from runtimes.base import Sampling
from runtimes.deployment.generation_config import TextModel, load_text_model
from runtimes.deployment.tokenization import ModelTokenizer, load_tokenizer
from tests.runtimes.tokenizers_of_tests import (
    BEGIN_ID,
    END_ID,
    PADDING_ID,
    SPECIAL,
    save_tokenizer,
    write_json,
)

transformers = pytest.importorskip("transformers")

TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
MESSAGES = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user"]), "content": TEXTS}),
    min_size=1,
    max_size=4,
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("models") / "tiny"
    save_tokenizer(made)
    return made


@pytest.fixture(scope="module")
def tokenizer(folder: Path) -> ModelTokenizer:
    loaded = load_tokenizer(folder)
    assert loaded is not None
    return loaded


@pytest.fixture(scope="module")
def theirs(folder: Path) -> Any:
    return transformers.AutoTokenizer.from_pretrained(str(folder))


@given(text=TEXTS)
def test_a_prompt_has_the_tokens_that_transformers_gives_it(
    tokenizer: ModelTokenizer, theirs: Any, text: str
) -> None:
    assert tokenizer.encode(text) == tuple(theirs(text)["input_ids"])
    assert tokenizer.encode(text) == (BEGIN_ID, *tokenizer.encode_piece(text))


@given(messages=MESSAGES)
def test_a_conversation_has_the_tokens_that_transformers_gives_it(
    tokenizer: ModelTokenizer, theirs: Any, messages: list[dict[str, str]]
) -> None:
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert tokenizer.encode_chat(messages) == tuple(expected)


@given(text=TEXTS)
def test_decoding_undoes_encoding_and_leaves_special_tokens_out(
    tokenizer: ModelTokenizer, text: str
) -> None:
    if not any(special in text for special in SPECIAL):
        assert tokenizer.decode([*tokenizer.encode(text), END_ID]) == text


def test_special_tokens_and_the_end_are_those_of_the_folder(tokenizer: ModelTokenizer) -> None:
    assert tokenizer.special_tokens == {BEGIN_ID, END_ID, PADDING_ID}
    assert tokenizer.stop_tokens == (END_ID,)


def test_a_folder_without_tokenizer_has_none(tmp_path: Path) -> None:
    write_json(tmp_path / "config.json", {"vocab_size": 10})
    assert load_tokenizer(tmp_path) is None


def test_a_damaged_tokenizer_is_refused_with_the_reason(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        load_tokenizer(tmp_path)
    where = f"{tmp_path}: expected a usable tokenizer, got: "
    assert str(caught.value).startswith(where)
    assert len(str(caught.value)) > len(where)  # the rest is the library's own text


def test_without_transformers_texts_are_refused_with_what_to_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(InputError) as caught:
        load_tokenizer(folder)
    assert str(caught.value) == (
        "reading texts needs the module transformers: pip install transformers; or give prompts "
        "as lists of token ids"
    )


def test_without_a_chat_template_a_conversation_is_refused(tmp_path: Path) -> None:
    save_tokenizer(tmp_path / "base", chat_template=None)
    loaded = load_tokenizer(tmp_path / "base")
    assert loaded is not None
    with pytest.raises(InputError) as caught:
        loaded.encode_chat([{"role": "user", "content": "hello"}])
    assert str(caught.value) == (
        "base: expected a chat template to write messages down with, but there is none: give a "
        "prompt to /v1/completions, or the folder of an instruction-tuned model"
    )


def test_what_a_chat_template_refuses_is_told(tokenizer: ModelTokenizer) -> None:
    with pytest.raises(InputError) as caught:
        tokenizer.encode_chat([{"role": "robot", "content": "hello"}])
    assert str(caught.value) == (
        "tiny: the chat template refuses the messages: no role is called robot"
    )


# ---- what else a model folder says


def model_of(folder: Path, **files: object) -> TextModel:
    for name, content in files.items():
        write_json(folder / f"{name}.json", content)
    return load_text_model("m", 1000, folder)


def test_without_a_folder_only_the_vocabulary_is_known() -> None:
    assert load_text_model("m", 50, None) == TextModel("m", 50, (), frozenset(), Sampling(), None)


@pytest.mark.parametrize(
    ("config", "generation", "stop_tokens"),
    [
        ({}, {}, ()),
        ({"eos_token_id": 7}, {}, (7,)),
        ({"eos_token_id": [9, 7]}, {}, (7, 9)),
        ({"eos_token_id": 7}, {"eos_token_id": [8, 5]}, (5, 8)),
        ({"eos_token_id": 7}, {"eos_token_id": None}, (7,)),
        ({"text_config": {"eos_token_id": 4}, "eos_token_id": 7}, {}, (4,)),
        ({"eos_token_id": -1}, {}, ()),
    ],
)
def test_generation_config_says_where_a_sequence_ends_and_else_config(
    tmp_path: Path, config: object, generation: object, stop_tokens: tuple[int, ...]
) -> None:
    model = model_of(tmp_path, config=config, generation_config=generation)
    assert model.stop_tokens == stop_tokens
    assert model.tokenizer is None


def test_the_tokenizer_adds_its_end_and_its_special_tokens(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    model = model_of(tmp_path, config={"eos_token_id": 7, "bos_token_id": 11})
    assert model.stop_tokens == (END_ID, 7)
    assert model.special_tokens == {BEGIN_ID, END_ID, PADDING_ID, 7, 11}
    assert model.tokenizer is not None


@pytest.mark.parametrize(
    ("generation", "sampling"),
    [
        ({"temperature": 0.6, "top_p": 0.9}, Sampling()),
        ({"do_sample": False, "temperature": 0.6}, Sampling()),
        ({"do_sample": True}, Sampling(1.0, 0, 1.0)),
        (
            {"do_sample": True, "temperature": 0.6, "top_p": 0.9, "top_k": 20},
            Sampling(0.6, 20, 0.9),
        ),
    ],
)
def test_a_folder_that_samples_gives_the_defaults_and_any_other_is_greedy(
    tmp_path: Path, generation: object, sampling: Sampling
) -> None:
    assert model_of(tmp_path, generation_config=generation).sampling == sampling


@pytest.mark.parametrize(
    ("generation", "message"),
    [
        ({"eos_token_id": "x"}, "eos_token_id: expected token ids, got 'x'"),
        ({"eos_token_id": [1, True]}, "eos_token_id: expected token ids, got True"),
        (
            {"do_sample": True, "temperature": -1},
            "temperature: expected a number of at least 0, got -1",
        ),
    ],
)
def test_a_folder_that_says_what_cannot_be_is_refused(
    tmp_path: Path, generation: object, message: str
) -> None:
    with pytest.raises(InputError) as caught:
        model_of(tmp_path, generation_config=generation)
    assert str(caught.value) == f"generation_config.json.{message}"

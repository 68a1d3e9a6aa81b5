"""Windows of a text: whole prompts, and messages about bad texts and folders."""

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.resources import bundled_dir
from runtimes.deployment.tokenization import load_tokenizer
from runtimes.quality.measured_model import open_measured_model
from runtimes.quality.windows import beginning, calibration_text, cut_windows
from tests.runtimes.quality_subjects import TEXT, VOCABULARY, quality_settings, save_subject
from tests.runtimes.tokenizers_of_tests import BEGIN_ID, save_tokenizer


def refused(model: Path, text: Path | None, **changes: Any) -> str:
    with pytest.raises(InputError) as error:
        open_measured_model(quality_settings(model, text, **changes))
    return str(error.value)


@given(
    length=st.integers(8, 300),
    own=st.integers(2, 8),
    begins=st.integers(0, 2),
    most=st.integers(1, 50),
    seed=st.integers(0, 5),
)
def test_windows_are_consecutive_parts_of_the_text(
    length: int, own: int, begins: int, most: int, seed: int
) -> None:
    begin = (1000, 1001)[:begins]
    windows = cut_windows(range(length), begin, own + begins, most, seed, "text.txt")
    assert len(windows) == min(most, length // own)
    assert all(window[:begins] == begin for window in windows)
    starts = [window[begins] for window in windows]
    assert starts == sorted(set(starts))
    for window, start in zip(windows, starts, strict=True):
        assert window[begins:] == tuple(range(start, start + own))
        assert start % own == 0
    assert windows == cut_windows(range(length), begin, own + begins, most, seed, "text.txt")


def test_windows_begin_as_prompts_do(tmp_path: Path) -> None:
    model, text = save_subject(tmp_path)
    tokenizer = load_tokenizer(model)
    assert tokenizer is not None
    assert beginning(tokenizer) == (BEGIN_ID,)
    measured_model = open_measured_model(quality_settings(model, text))
    assert all(
        window[0] == BEGIN_ID and len(window) == 24 for window in measured_model.windows.tokens
    )
    facts = measured_model.windows.text
    assert facts.tokens == len(tokenizer.encode_piece(TEXT))
    assert (facts.name, facts.windows, facts.window_tokens) == ("text.txt", 3, 24)


def test_a_bundled_text_is_taken_where_none_is_given(tmp_path: Path) -> None:
    model, _ = save_subject(tmp_path)
    assert calibration_text().is_relative_to(bundled_dir("traces"))
    assert 40_000 <= calibration_text().stat().st_size <= 60_000
    measured_model = open_measured_model(
        quality_settings(model, None, window_tokens=128, windows=16)
    )
    assert measured_model.windows.text.name == "calibration.txt"
    assert measured_model.windows.text.windows == 16


def test_a_text_shorter_than_a_window_is_refused(tmp_path: Path) -> None:
    model, text = save_subject(tmp_path)
    text.write_text("one two", encoding="utf-8")
    tokenizer = load_tokenizer(model)
    assert tokenizer is not None
    count = len(tokenizer.encode_piece("one two"))
    assert refused(model, text) == (
        f"text.txt: expected a text of at least one window, 23 tokens, got {count}; "
        f"give a longer text, or --window-tokens {count + 1}"
    )
    opened = open_measured_model(quality_settings(model, text, window_tokens=count + 1))
    assert opened.windows.text.windows == 1


def test_a_text_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    model, text = save_subject(tmp_path)
    assert "No such file" in refused(model, tmp_path / "missing.txt")
    text.write_bytes(b"\xff\xfe\x00")
    assert refused(model, text) == "text.txt: expected UTF-8 text, got byte 0xff at offset 0"
    text.write_bytes(b"")
    assert refused(model, text) == "text.txt: expected content, but the file is empty"


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    model, text = save_subject(tmp_path)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (model / name).unlink()
    assert refused(model, text).startswith(
        f"{model}: expected a tokenizer to read text.txt with, found none of tokenizer.json"
    )


def test_a_tokenizer_of_another_model_is_refused(tmp_path: Path) -> None:
    model, text = save_subject(tmp_path)
    save_tokenizer(model, 1000)
    message = refused(model, text)
    assert f"but its model has {VOCABULARY} tokens; the tokenizer is another model's" in message


def test_a_wrong_folder_is_refused(tmp_path: Path) -> None:
    model, text = save_subject(tmp_path)
    missing = tmp_path / "missing"
    assert refused(missing, text) == (
        f"MODEL_DIR: expected the folder of a model, there is none at {missing}"
    )
    (model / "model.safetensors").unlink()
    assert "expected weights (model.safetensors" in refused(model, text)
    (model / "config.json").write_text(json.dumps({"model_type": "other"}), encoding="utf-8")
    assert "model_type 'other' is not supported" in refused(model, text)


def test_windows_longer_than_the_models_context_are_refused(tmp_path: Path) -> None:
    model, text = save_subject(tmp_path)
    assert refused(model, text, window_tokens=129) == (
        "--window-tokens: model has at most 128 positions, got 129"
    )


@pytest.mark.parametrize("device", ["tpu", "cuda:99", "meta"])
def test_a_device_that_is_not_there_is_refused(tmp_path: Path, device: str) -> None:
    model, text = save_subject(tmp_path)
    assert refused(model, text, device=device).startswith("--device: ")

"""Windows of a text on which a model is measured."""

import hashlib
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.files import read_text
from llmpq_sim.io.resources import bundled_dir
from llmpq_sim.quality.measured import TextFacts
from runtimes.deployment.tokenization import TOKENIZER_FILES, ModelTokenizer, load_tokenizer

PROBE = "text"
"""A prompt whose tokens show what a tokenizer begins every prompt with."""


@dataclass(frozen=True)
class Windows:
    """Windows of a text, each a prompt of its own.

    Attributes:
        tokens: ids, one tuple per window, all equally long.
        text: what they were cut from.
    """

    tokens: tuple[tuple[int, ...], ...]
    text: TextFacts


def calibration_text() -> Path:
    """Return the text that is bundled for those who give none: English, written for llmpq."""
    return bundled_dir("traces") / "texts" / "calibration.txt"


def read_windows(
    model_dir: Path, path: Path, window_tokens: int, most: int, seed: int, vocabulary_tokens: int
) -> Windows:
    """Return windows of a text file as a model's tokenizer reads it.

    Args:
        model_dir: the model's folder, with its tokenizer.
        path: of the text, in UTF-8.
        window_tokens: tokens of each window, those included that every prompt begins with.
        most: windows at most.
        seed: of the choice where the text has more.
        vocabulary_tokens: ids are below this number.

    Raises:
        InputError: there is no tokenizer, or the text cannot be read, or is too short.
    """
    text = read_text(path)
    tokenizer = load_tokenizer(model_dir)
    if tokenizer is None:
        raise InputError(
            f"{model_dir}: expected a tokenizer to read {path.name} with, found none of "
            f"{', '.join(TOKENIZER_FILES)}; copy those of the model there"
        )
    tokens = tokenizer.encode_piece(text)
    _check_ids(tokens, vocabulary_tokens, model_dir)
    begin = beginning(tokenizer)
    windows = cut_windows(tokens, begin, window_tokens, most, seed, path.name)
    digest = hashlib.sha256(text.encode()).hexdigest()
    facts = TextFacts(path.name, digest, len(tokens), len(windows), window_tokens)
    return Windows(windows, facts)


def beginning(tokenizer: ModelTokenizer) -> tuple[int, ...]:
    """Return the tokens that a tokenizer begins every prompt with."""
    piece, whole = tokenizer.encode_piece(PROBE), tokenizer.encode(PROBE)
    starts = range(len(whole) - len(piece) + 1)
    at = next((i for i in starts if whole[i : i + len(piece)] == piece), 0)
    return whole[:at]


def cut_windows(
    tokens: Sequence[int], begin: Sequence[int], window_tokens: int, most: int, seed: int, name: str
) -> tuple[tuple[int, ...], ...]:
    """Return consecutive windows of a text; where there are more than asked for, some are drawn.

    Each begins with the tokens of ``begin``, as a prompt does, and no token of the text is in two.

    Raises:
        InputError: the text is shorter than one window.
    """
    own = window_tokens - len(begin)
    if own < 2:
        raise InputError(
            f"--window-tokens: expected at least {len(begin) + 2}, got {window_tokens}"
        )
    whole = len(tokens) // own
    if not whole:
        raise InputError(
            f"{name}: expected a text of at least one window, {own} tokens, got {len(tokens)}; "
            f"give a longer text, or --window-tokens {max(len(tokens), 2) + len(begin)}"
        )
    chosen = sorted(random.Random(seed).sample(range(whole), min(most, whole)))
    return tuple((*begin, *tokens[i * own : (i + 1) * own]) for i in chosen)


def _check_ids(tokens: Sequence[int], vocabulary_tokens: int, model_dir: Path) -> None:
    largest = max(tokens, default=0)
    if largest >= vocabulary_tokens:
        raise InputError(
            f"{model_dir}: its tokenizer gives the id {largest}, but its model has "
            f"{vocabulary_tokens} tokens; the tokenizer is another model's"
        )

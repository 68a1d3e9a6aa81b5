"""Trace formats that hold texts, with estimated or counted tokens."""

import importlib
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from llmpq_sim.core.errors import InputError, library_errors
from llmpq_sim.core.limits import (
    LARGEST_TOKENIZER_BYTES,
    LEAST_CHARS_PER_TOKEN,
    MOST_CHARS_PER_TOKEN,
    check_number,
)
from llmpq_sim.io.files import is_file, read_text
from llmpq_sim.io.traces.json_records import Record
from llmpq_sim.io.traces.rows import Place, Reading, Row, json_objects, json_tokens

PROMPT_KEYS = ("prompt", "text", "text_input")
OUTPUT_KEYS = ("output_tokens", "output_length")
LIMIT_KEYS = ("max_tokens", "max_completion_tokens")

# ---- tokens of a text


def token_counter(
    name: str, tokenizer: Path | None, chars_per_token: float | None
) -> Callable[[str], int]:
    """Return how to count tokens: by a tokenizer, by characters, or an error that asks for one.

    Raises:
        InputError: both are given, the number is not positive, or there is no such tokenizer.
    """
    if tokenizer is not None:
        if chars_per_token is not None:
            raise InputError("expected --tokenizer or --chars-per-token, got both")
        return _by_tokenizer(tokenizer)
    if chars_per_token is None:
        return lambda _: _uncounted(name)
    check_number("--chars-per-token", chars_per_token, LEAST_CHARS_PER_TOKEN, MOST_CHARS_PER_TOKEN)
    return lambda text: math.ceil(len(text) / chars_per_token)


def _uncounted(name: str) -> int:
    raise InputError(
        f"{name}: the file has texts and no lengths: give --tokenizer tokenizer.json, or "
        "--chars-per-token (about 4 for English)"
    )


def _by_tokenizer(path: Path) -> Callable[[str], int]:
    try:
        library: Any = importlib.import_module("tokenizers")
    except ImportError:
        raise InputError(
            "--tokenizer needs the package tokenizers: pip install tokenizers; or give "
            "--chars-per-token"
        ) from None
    if not is_file(path):
        raise InputError(f"--tokenizer: expected a file tokenizer.json, got {path}")
    text = read_text(path, LARGEST_TOKENIZER_BYTES)
    with library_errors(f"{path.name}: not a tokenizer.json"):
        encoder = library.Tokenizer.from_str(text)

    def count(text: str) -> int:
        with library_errors(f"{path.name}: cannot read a text"):
            return len(encoder.encode(text, add_special_tokens=False).ids)

    return count


# ---- formats


def openai_batch_rows(reading: Reading) -> Iterator[Row]:
    """Yield rows of an OpenAI batch; a request generates the most tokens it allows."""
    reading.note("output lengths are max_tokens, an upper bound; chat templates are not counted")
    for place, record in reading.records():
        body = record.get("body")
        if not isinstance(body, dict):
            raise place.wrong("body", "an object", body)
        output = json_tokens(body, LIMIT_KEYS, place)
        yield Row(None, _batch_prompt(body, place, reading.count_tokens), output)


def _batch_prompt(body: Record, place: Place, count: Callable[[str], int]) -> int:
    if "messages" not in body:
        prompt = body.get("prompt", body.get("input"))
        if isinstance(prompt, list) and prompt and all(type(token) is int for token in prompt):
            return len(prompt)
        return count(_text(prompt, "body.prompt", place))
    messages = json_objects(body, "messages", place)
    return sum(count(_content(message.get("content"), place)) for message in messages)


def _content(content: object, place: Place) -> str:
    """Return the text of a message: a text, or parts of which some are texts."""
    if content is None:  # a message of tool calls
        return ""
    if isinstance(content, list):
        parts = [part.get("text") for part in content if isinstance(part, dict)]
        return "".join(part for part in parts if isinstance(part, str))
    return _text(content, "content", place)


def sharegpt_rows(reading: Reading) -> Iterator[Row]:
    """Yield rows of ShareGPT as vLLM's benchmark takes them: turn 0 asks, turn 1 answers."""
    for place, record in reading.records():
        turns = json_objects(record, "conversations", place)
        if len(turns) < 2:
            reading.dropped["with fewer than 2 turns"] += 1
            continue
        prompt, output = (_text(turn.get("value"), "value", place) for turn in turns[:2])
        yield Row(None, reading.count_tokens(prompt), reading.count_tokens(output))


def prompt_rows(reading: Reading) -> Iterator[Row]:
    """Yield rows of files of prompts that state how many tokens to generate."""
    for place, record in reading.records():
        if "turns" in record:
            raise InputError(
                f"{place.name} line {place.line}: turns of prompts have no output lengths; convert "
                "each to an object with prompt and output_tokens"
            )
        key = next((key for key in PROMPT_KEYS if key in record), PROMPT_KEYS[0])
        prompt = reading.count_tokens(_text(record.get(key), key, place))
        yield Row(None, prompt, json_tokens(record, OUTPUT_KEYS, place))


def _text(value: object, key: str, place: Place) -> str:
    if not isinstance(value, str):
        raise place.wrong(key, "a text", value)
    return value

"""Tokenization of texts and conversations, and decoding of tokens."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any

from llmpq_sim.core.errors import InputError, encodable, library_errors
from llmpq_sim.core.fields import kind_of
from llmpq_sim.core.limits import LARGEST_TOKENIZER_BYTES
from llmpq_sim.core.units import MIB
from llmpq_sim.io.files import check_regular, is_file, is_folder
from runtimes.deployment.chat_templates import ChatTemplate, Message

__all__ = ["Message", "ModelTokenizer", "load_tokenizer"]

TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
    "vocab.json",
    "vocab.txt",
)
"""A model folder with none of these has no tokenizer."""

OTHER_FILES = (
    "added_tokens.json",
    "special_tokens_map.json",
    "merges.txt",
    "chat_template.jinja",
    "chat_template.json",
)
"""Read with them where they are there."""


class ModelTokenizer:
    """The tokenizer of a model folder, as transformers reads it.

    Attributes:
        where: what messages call the folder.
        special_tokens: ids that mean something other than text: begin, end, padding and the like.
        stop_tokens: ids that end a sequence.
    """

    def __init__(
        self,
        backend: Any,
        where: str,
        special_tokens: frozenset[int],
        stop_tokens: tuple[int, ...],
    ) -> None:
        self._backend = backend
        self.where = where
        self.special_tokens = special_tokens
        self.stop_tokens = stop_tokens

    @property
    def has_chat_template(self) -> bool:
        """Return whether the folder says how a conversation is written down."""
        return bool(self._backend.chat_template)

    def encode(self, text: str) -> tuple[int, ...]:
        """Return a prompt's tokens, with those that the tokenizer begins every prompt with.

        Raises:
            InputError: the tokenizer fails on it.
        """
        with library_errors(f"{self.where}: the tokenizer fails"):
            return tuple(self._backend.encode(text, verbose=False))

    def encode_piece(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text that stands within others: nothing is added.

        Raises:
            InputError: the tokenizer fails on it.
        """
        with library_errors(f"{self.where}: the tokenizer fails"):
            return tuple(self._backend.encode(text, add_special_tokens=False, verbose=False))

    def encode_chat(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return a conversation's tokens up to where the model is to answer.

        Raises:
            InputError: there is no chat template, or it does not take these messages.
        """
        if not self.has_chat_template:
            raise InputError(
                f"{self.where}: expected a chat template to write messages down with, but there is "
                "none: give a prompt to /v1/completions, or the folder of an instruction-tuned "
                "model"
            )
        try:
            text = self._template.render(messages)
        except InputError as error:
            raise InputError(f"{self.where}: {error}") from None
        return self.encode_piece(text)

    @cached_property
    def _template(self) -> ChatTemplate:
        with library_errors("no usable chat template"):
            text = self._backend.get_chat_template()
        if not isinstance(text, str):
            raise InputError(f"expected a chat template as a text, got {kind_of(text)}")
        tokens = {name: str(token) for name, token in self._backend.special_tokens_map.items()}
        return ChatTemplate(text, tokens)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of generated tokens, special ones left out.

        Raises:
            InputError: the tokenizer fails on them.
        """
        with library_errors(f"{self.where}: the tokenizer fails"):
            return str(self._backend.decode(list(tokens), skip_special_tokens=True))


def load_tokenizer(model_dir: Path) -> ModelTokenizer | None:
    """Return the tokenizer of a model folder, or None if the folder has none.

    Code that a folder brings along is never run.

    Raises:
        InputError: the folder has a tokenizer that cannot be loaded, or transformers is missing.
    """
    if not any(is_file(model_dir / name) for name in TOKENIZER_FILES):
        return None
    _check_files(model_dir)
    try:
        from transformers import AutoTokenizer  # noqa: PLC0415  seconds, and only texts need it
    except ModuleNotFoundError as error:
        raise InputError(
            f"reading texts needs the module {error.name}: pip install {error.name}; or give "
            "prompts as lists of token ids"
        ) from None
    with library_errors(f"{model_dir}: expected a usable tokenizer, got"), _panics_untold():
        backend: Any = AutoTokenizer.from_pretrained(
            str(model_dir), local_files_only=True, trust_remote_code=False
        )
        backend.decode(backend.encode("a", verbose=False), skip_special_tokens=True)  # as later
        end = backend.eos_token_id
        return ModelTokenizer(
            backend,
            encodable(model_dir.name or str(model_dir)),
            frozenset(map(int, backend.all_special_ids)),
            () if end is None else (int(end),),
        )


def _flush_stderr() -> None:
    if sys.stderr is not None:
        sys.stderr.flush()


@contextmanager
def _panics_untold() -> Iterator[None]:
    """Keep what a library writes to stderr, and write it unless it ends in an error.

    Rust code that panics writes pages there before Python is told.
    """
    _flush_stderr()
    try:
        kept = os.dup(2)
    except OSError:  # there is no stderr
        yield
        return
    with TemporaryFile() as told, os.fdopen(kept, "wb") as stderr:
        os.dup2(told.fileno(), 2)
        try:
            yield
            _flush_stderr()
            told.seek(0)
            stderr.write(told.read())
        finally:
            stderr.flush()
            os.dup2(stderr.fileno(), 2)


def _check_files(model_dir: Path) -> None:
    """Raise InputError for what the libraries below would open and wait for, or fill memory with.

    They look for files of many names; whatever is in the folder is a file or a folder.
    """
    with library_errors(f"cannot read {model_dir}"):
        paths = sorted(model_dir.iterdir())
    for path in paths:
        if path.exists() and not is_file(path) and not is_folder(path):
            check_regular(path)
    for name in (*TOKENIZER_FILES, *OTHER_FILES):
        path = model_dir / name
        size_bytes = path.stat().st_size if is_file(path) else 0
        if size_bytes > LARGEST_TOKENIZER_BYTES:
            most = LARGEST_TOKENIZER_BYTES // MIB
            raise InputError(f"{path}: expected at most {most} MiB, got {size_bytes / MIB:.1f} MiB")

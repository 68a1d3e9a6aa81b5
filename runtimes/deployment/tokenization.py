"""Tokenization of texts and conversations, and decoding of tokens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmpq_sim.core.errors import InputError

Message = Mapping[str, str]
"""One turn of a conversation: its ``role`` and its ``content``."""

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
        """Return a prompt's tokens, with those that the tokenizer begins every prompt with."""
        return tuple(self._backend.encode(text, verbose=False))

    def encode_piece(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text that stands within others: nothing is added."""
        return tuple(self._backend.encode(text, add_special_tokens=False, verbose=False))

    def encode_chat(self, messages: Sequence[Message]) -> tuple[int, ...]:
        """Return a conversation's tokens up to where the model is to answer.

        Raises:
            InputError: there is no chat template, or it does not take these messages.
        """
        from jinja2.exceptions import TemplateError  # noqa: PLC0415  PyTorch brings it

        if not self.has_chat_template:
            raise InputError(
                f"{self.where}: expected a chat template to write messages down with, but there is "
                "none: give a prompt to /v1/completions, or the folder of an instruction-tuned "
                "model"
            )
        conversation = [dict(message) for message in messages]
        try:
            text = self._backend.apply_chat_template(
                conversation, add_generation_prompt=True, tokenize=False
            )
        except TemplateError as error:
            raise InputError(
                f"{self.where}: the chat template refuses the messages: {error}"
            ) from None
        return self.encode_piece(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """Return the text of generated tokens, special ones left out."""
        return str(self._backend.decode(list(tokens), skip_special_tokens=True))


def load_tokenizer(model_dir: Path) -> ModelTokenizer | None:
    """Return the tokenizer of a model folder, or None if the folder has none.

    Code that a folder brings along is never run.

    Raises:
        InputError: the folder has a tokenizer that cannot be loaded, or transformers is missing.
    """
    if not any((model_dir / name).is_file() for name in TOKENIZER_FILES):
        return None
    try:
        from transformers import AutoTokenizer  # noqa: PLC0415  seconds, and only texts need it
    except ModuleNotFoundError as error:
        raise InputError(
            f"reading texts needs the module {error.name}: pip install {error.name}; or give "
            "prompts as lists of token ids"
        ) from None
    try:
        backend: Any = AutoTokenizer.from_pretrained(
            str(model_dir), local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # the libraries below raise bare exceptions for damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(f"{model_dir}: expected a usable tokenizer, got: {reason}") from None
    end = backend.eos_token_id
    return ModelTokenizer(
        backend,
        model_dir.name or str(model_dir),
        frozenset(backend.all_special_ids),
        () if end is None else (int(end),),
    )

"""Small tokenizer for tests, trained on the standard library, in a model folder."""

import json
import sysconfig
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BEGIN, END, PADDING = "<|begin|>", "<|end|>", "<|padding|>"
SPECIAL = (BEGIN, END, PADDING)
BEGIN_ID, END_ID, PADDING_ID = range(3)

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('no role is called ' + message['role']) }}"
    "{% endif %}"
    "<|begin|>{{ message['role'] }}\n{{ message['content'] }}<|end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|begin|>assistant\n{% endif %}"
)
"""Refuses unknown roles, so that tests can see a template refuse."""

MODULES = ("argparse", "ast", "dataclasses", "datetime", "inspect", "textwrap", "typing")


def standard_library_text() -> Iterator[str]:
    """Yield lines of a few modules of the standard library: text that is always at hand."""
    folder = Path(sysconfig.get_paths()["stdlib"])
    for module in MODULES:
        yield from (folder / f"{module}.py").read_text(encoding="utf-8").splitlines(keepends=True)


@cache
def tokenizer_json(vocabulary_tokens: int = 1000) -> str:
    """Return the tokenizer.json of a byte-level BPE with so many tokens, special ones first.

    As many tokenizers do, it puts a token before every prompt.
    """
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_tokens,
        special_tokens=list(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(standard_library_text(), trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"{BEGIN} $A", special_tokens=[(BEGIN, BEGIN_ID)]
    )
    return str(tokenizer.to_str())


def save_tokenizer(
    folder: Path, vocabulary_tokens: int = 1000, chat_template: str | None = CHAT_TEMPLATE
) -> None:
    """Write tokenizer.json and tokenizer_config.json into a model folder.

    Args:
        folder: the folder; made if there is none.
        vocabulary_tokens: how many tokens there are, at least 259: all bytes and special tokens.
        chat_template: None for a tokenizer without.
    """
    folder.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": BEGIN,
        "eos_token": END,
        "pad_token": PADDING,
        "clean_up_tokenization_spaces": False,
    }
    if chat_template is not None:
        settings["chat_template"] = chat_template
    write_json(folder / "tokenizer_config.json", settings)
    text = tokenizer_json(vocabulary_tokens)
    (folder / "tokenizer.json").write_text(text, encoding="utf-8")


def write_json(path: Path, content: object) -> None:
    """Write a file of a model folder."""
    path.write_text(json.dumps(content), encoding="utf-8")

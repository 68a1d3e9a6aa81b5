"""Files of requests for tests, and the tiny model with a tokenizer that reads them."""

import json
from pathlib import Path
from typing import Any

import pytest

from runtimes.deployment.generation_config import TextModel, load_text_model
from runtimes.deployment.request_files import read_requests
from runtimes.deployment.requests import CHAT, TEXT, PlanLimits, RequestSet
from tests.runtimes.tokenizers_of_tests import save_tokenizer

pytest.importorskip("transformers")

LIMITS = PlanLimits(longest_prompt_tokens=40, longest_context_tokens=60, longest_output_tokens=30)
PLAIN = TextModel("m", 1000, stop_tokens=(1,))
"""A model without tokenizer."""


def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> TextModel:
    """Return a model with a tokenizer; a fixture where a test file makes it one."""
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

"""Whole files of every kind that the runtimes read, and how each is used."""

import io
import json
from pathlib import Path

import torch
from safetensors.torch import save

from runtimes.deployment.generation_config import load_text_model
from runtimes.deployment.request_files import read_requests
from runtimes.deployment.requests import RequestSet
from runtimes.deployment.result_files import open_results
from runtimes.deployment.result_lines import completion_line, rejected_line
from runtimes.torch_pipeline.weights.checkpoint import open_checkpoint
from tests.fuzz.kinds import Kind
from tests.runtimes.requests_of_tests import LIMITS, PLAIN, chat, line
from tests.runtimes.results_of_tests import ALL, MODEL, answer
from tests.runtimes.tokenizers_of_tests import CHAT_TEMPLATE, save_tokenizer, tokenizer_json

WEIGHTS = {"a": torch.ones(3), "b": torch.ones(2, 2, dtype=torch.float16), "c": torch.zeros(0)}
SETTINGS = {
    "tokenizer_class": "PreTrainedTokenizerFast",
    "bos_token": "<|begin|>",
    "eos_token": "<|end|>",
    "pad_token": {"content": "<|padding|>", "__type": "AddedToken"},
    "model_max_length": 1000,
    "clean_up_tokenization_spaces": False,
    "chat_template": CHAT_TEMPLATE,
}
GENERATION = {"eos_token_id": [1, 2], "do_sample": True, "top_k": 5, "top_p": 0.9, "temperature": 1}
REQUESTS = [
    line({"prompt": [5, 6, 7], "max_tokens": 4, "temperature": 0.5, "top_p": 0.9, "seed": 3}),
    line({"prompt": [9], "stop_token_ids": [4], "ignore_eos": True}, custom_id="b"),
]


def runtime_kinds() -> list[Kind]:
    """Return every kind of file that the runtimes read."""
    return [*_weights(), *_texts(), *_requests()]


def _weights() -> list[Kind]:
    files = []
    for is_legacy in (False, True):
        stream = io.BytesIO()
        torch.save(WEIGHTS, stream, _use_new_zipfile_serialization=not is_legacy)
        files.append(stream.getvalue())
    shards = {"metadata": {"total_size": 20}, "weight_map": {"a": "w.safetensors", "b": "x"}}
    return [
        Kind("bin", "pytorch_model.bin", tuple(files), _use_weights),
        Kind("safetensors", "model.safetensors", (save(WEIGHTS),), _use_weights),
        Kind("index", "model.safetensors.index.json", (shards,), _use_index),
    ]


def _use_weights(path: Path) -> object:
    checkpoint = open_checkpoint(path.parent)
    with checkpoint.reading() as reader:
        return [reader.read(name) for name in checkpoint.file_of]


def _use_index(path: Path) -> object:
    path.with_name("w.safetensors").write_bytes(save(WEIGHTS))
    return _use_weights(path)


def _texts() -> list[Kind]:
    return [
        Kind("tokenizer", "tokenizer.json", (json.loads(tokenizer_json(300)),), _use_texts),
        Kind("tokenizer-settings", "tokenizer_config.json", (SETTINGS,), _use_texts),
        Kind("generation", "generation_config.json", (GENERATION,), _use_texts),
    ]


def _use_texts(path: Path) -> object:
    """Load the tokenizer of a folder in which one file was changed, and read a conversation."""
    content = path.read_bytes()
    save_tokenizer(path.parent, 300)
    path.write_bytes(content)
    model = load_text_model("m", 300, path.parent)
    asked = path.with_name("requests.jsonl")
    asked.write_text(json.dumps(chat({"role": "user", "content": "hello"})))
    return read_requests(asked, model, LIMITS)


def _requests() -> list[Kind]:
    completions = [completion_line(each, answer(0, each), MODEL) for each in ALL.accepted]
    rejected = [rejected_line(each) for each in ALL.rejected]
    results = [json.loads(each) for each in (*completions, *rejected)]
    return [
        Kind("requests", "requests.jsonl", (REQUESTS,), _use_requests, lines=True),
        Kind("results", "out.jsonl", (results,), _use_results, lines=True),
    ]


def _use_requests(path: Path) -> object:
    found: RequestSet = read_requests(path, PLAIN, LIMITS)
    return [rejected_line(each) for each in found.rejected]


def _use_results(path: Path) -> object:
    with open_results(path, ALL, MODEL, resume=True) as writer:
        return writer.totals

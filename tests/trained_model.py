"""Small Llama that is really trained, so that its layers differ as trained ones do.

It learns the standard library's sources, which are on every machine. The number of steps is fixed,
not the time: on one machine and one thread the same seed gives the same weights.
"""

import math
import sysconfig
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from tests.runtimes.tokenizers_of_tests import (
    BEGIN_ID,
    END_ID,
    PADDING_ID,
    save_tokenizer,
    tokenizer_json,
)

VOCABULARY_TOKENS = 1000
WINDOW_TOKENS = 128
HELD_OUT = "held_out.txt"
HELD_OUT_EVERY = 8
"""One file of so many is not trained on."""


@dataclass(frozen=True)
class Training:
    """How large a model is and how long it learns.

    Attributes:
        layers, hidden: decoder layers and width; MLPs are three times as wide.
        steps: of the optimizer, each over ``rows`` windows of text.
        rows: windows in a step.
        peak_rate: learning rate after the warm-up, from which a cosine leads down to a tenth.
        warm_up_steps: in which the rate rises linearly.
    """

    layers: int
    hidden: int
    steps: int
    rows: int = 8
    peak_rate: float = 5e-3
    warm_up_steps: int = 20

    def config(self) -> LlamaConfig:
        """Return the model's configuration: heads of 32, two to each head of keys and values."""
        heads = self.hidden // 32
        return LlamaConfig(
            vocab_size=VOCABULARY_TOKENS,
            hidden_size=self.hidden,
            intermediate_size=3 * self.hidden,
            num_hidden_layers=self.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads // 2,
            max_position_embeddings=4 * WINDOW_TOKENS,
            tie_word_embeddings=True,
            bos_token_id=BEGIN_ID,
            eos_token_id=END_ID,
            pad_token_id=PADDING_ID,
        )

    def rate(self, step: int) -> float:
        """Return the learning rate of a step."""
        if step < self.warm_up_steps:
            return self.peak_rate * (step + 1) / self.warm_up_steps
        done = (step - self.warm_up_steps) / (self.steps - self.warm_up_steps)
        return self.peak_rate * (0.55 + 0.45 * math.cos(math.pi * done))


SMALL = Training(layers=6, hidden=64, steps=300)
LARGE = Training(layers=8, hidden=64, steps=1200)
"""Some 25 and 115 seconds of one core: of the tests, and of docs/log.md."""


def trained_model(folder: Path, training: Training, seed: int = 0) -> Path:
    """Train a model, save it with its tokenizer and a text it has not seen, return its folder."""
    save_tokenizer(folder, VOCABULARY_TOKENS, chat_template=None)
    (folder / HELD_OUT).write_text(library_text(held_out=True), encoding="utf-8")
    torch.manual_seed(seed)
    model = LlamaForCausalLM(training.config())
    _train(model, training_tokens(), training, torch.Generator().manual_seed(seed))
    model.save_pretrained(folder)
    return folder


def library_text(*, held_out: bool) -> str:
    """Return the sources of the standard library's modules, one part of the files or the other."""
    files = sorted(Path(sysconfig.get_paths()["stdlib"]).glob("[a-z]*.py"))
    chosen = [path for n, path in enumerate(files) if (n % HELD_OUT_EVERY == 0) == held_out]
    return "\n".join(path.read_text(encoding="utf-8") for path in chosen)


def encoded(text: str) -> Tensor:
    """Return the tokens of a text, without one that begins it. Shape: (tokens,)."""
    tokenizer = Tokenizer.from_str(tokenizer_json(VOCABULARY_TOKENS))
    return torch.tensor(tokenizer.encode(text, add_special_tokens=False).ids)


@cache
def training_tokens() -> Tensor:
    """Return the tokens that models are trained on. Shape: (tokens,)."""
    return encoded(library_text(held_out=False))


def windows_of(tokens: Tensor, count: int, first: int = 0) -> Tensor:
    """Return windows spread evenly over a text, of shape (windows, tokens).

    Args:
        tokens: of the text.
        count: windows to return.
        first: tokens to shift all of them by, to get others.
    """
    stride = (len(tokens) - WINDOW_TOKENS - first) // count
    return torch.stack([tokens[first + n * stride :][:WINDOW_TOKENS] for n in range(count)])


def _train(
    model: LlamaForCausalLM, tokens: Tensor, training: Training, generator: torch.Generator
) -> None:
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.1)
    last = len(tokens) - WINDOW_TOKENS
    for step in range(training.steps):
        starts = torch.randint(last, (training.rows, 1), generator=generator)
        batch = tokens[starts + torch.arange(WINDOW_TOKENS)]
        logits = model(input_ids=batch, use_cache=False).logits[:, :-1]
        loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = training.rate(step)
        optimizer.step()

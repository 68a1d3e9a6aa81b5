"""Sampling of the next token.

The draw for a token depends on its request's seed and its place in the output alone, so tokens do
not change with the batch, the stage or the runtime that computes them.
"""

import hashlib
from collections.abc import Sequence

import torch
from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from runtimes.base import Sampling, TokenRequest
from runtimes.torch_pipeline.engine.step import Step

SMALLEST = torch.finfo(torch.float32).tiny
"""Temperatures below it are none to 32 bits."""


def sample(logits: torch.Tensor, step: Step, requests: Sequence[TokenRequest]) -> torch.Tensor:
    """Return the next token of each sampled segment of a step.

    Args:
        logits: (samples, vocabulary).
        step: which requests the rows are of, and how far they are.
        requests: of the job.

    Returns:
        Token ids. Shape: (samples,).
    """
    tokens = logits.argmax(dim=-1)
    for row, part in enumerate(step.sampled):
        request = requests[part.request]
        if request.sampling.temperature > 0:
            place = part.start + part.tokens - len(request.prompt)
            tokens[row] = _drawn(logits[row : row + 1], request.sampling, place)
    return tokens


def _drawn(logits: torch.Tensor, sampling: Sampling, place: int) -> torch.Tensor:
    """Return one drawn token. ``logits`` is (1, vocabulary)."""
    ids = torch.empty(1, 0, dtype=torch.int64)
    below_best = logits.float().cpu() - logits.max().cpu()  # no temperature overflows the best
    scores = TemperatureLogitsWarper(max(sampling.temperature, SMALLEST))(ids, below_best)
    if sampling.top_k:
        scores = TopKLogitsWarper(sampling.top_k)(ids, scores)
    if sampling.top_p < 1:
        scores = TopPLogitsWarper(sampling.top_p)(ids, scores)
    generator = torch.Generator().manual_seed(_seed(sampling.seed, place))
    return torch.multinomial(scores.softmax(dim=-1), 1, generator=generator)[0, 0]


def _seed(seed: int, place: int) -> int:
    """Return a seed for one token: nearby seeds and places give unrelated ones."""
    digest = hashlib.sha256(f"{seed} {place}".encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1

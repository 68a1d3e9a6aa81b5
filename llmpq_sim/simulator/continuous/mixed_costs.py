"""Stage times of batches that mix decodes and prompt chunks.

The time of a batch at a stage, with n decodes of mean context c, T tokens in all, m of them
sampled, and chunks that take a prompt from p to p + q tokens:

    tokens_s[T] + samples_s[m] + sum max(prompt_s[p + q] - prompt_s[p], 0) + decode_s(n, c)

``tokens_s`` holds matrix products, elementwise kernels and, on the first stage, the embedding;
``samples_s`` the LM head and sampling on the last. A chunk's attention is what it adds to that of
its prefix. Decode attention reads every cache once, so it depends on the contexts through their
sum (Agrawal et al., Vidur, arXiv:2405.05465, sec. 4.3, use the same equivalence); it is
interpolated linearly in c between knots. A window bounds what is read of each cache: all contexts
taken as the mean, a batch of unequal ones reads no more than it is charged for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class StageTables:
    """Seconds of one stage and of the link behind it.

    Attributes:
        tokens_s: by tokens of the batch, from 0 to the token budget or beyond.
        samples_s: by tokens sampled, from 0 to the sequence limit or beyond.
        prompt_s: prefill attention by tokens of a prompt, from 0 to the longest context.
        decode_s: decode attention by sequences and knot, (sequence limit + 1 or more, knots).
        transfer_s: of the link: by tokens, or by tokens sampled on the way back to stage 0.
    """

    tokens_s: Sequence[float]
    samples_s: Sequence[float]
    prompt_s: Sequence[float]
    decode_s: FloatArray
    transfer_s: Sequence[float]


@dataclass(frozen=True)
class BatchLoad:
    """What a batch asks of each stage.

    Attributes:
        rows: sequences that decode one token each.
        context_sum: tokens they attend to, over all of them.
        chunks: prompt tokens before and in each chunk.
        samples: sequences whose next token is sampled: decodes and finished prompts.
    """

    rows: int
    context_sum: int
    chunks: tuple[tuple[int, int], ...]
    samples: int

    @property
    def tokens(self) -> int:
        """Tokens that pass the matrix products."""
        return self.rows + sum(chunk for _, chunk in self.chunks)


@dataclass(frozen=True)
class Pipeline:
    """A plan compiled to tables.

    Attributes:
        stages: in order.
        knot_tokens: mean contexts between two knots of ``decode_s``.
        blocks: KV blocks that each stage has room for.
        bounded_blocks: KV blocks of a sequence for windows and states; see
            ``llmpq_sim.core.caches.KvRoom``.
    """

    stages: tuple[StageTables, ...]
    knot_tokens: int
    blocks: tuple[int, ...]
    bounded_blocks: tuple[int, ...] = ()

    def service_s(self, number: int, load: BatchLoad) -> float:
        """Return the time of a batch at a stage."""
        stage = self.stages[number]
        total_s = stage.tokens_s[load.tokens] + stage.samples_s[load.samples]
        for prefix, chunk in load.chunks:
            total_s += max(stage.prompt_s[prefix + chunk] - stage.prompt_s[prefix], 0.0)
        if load.rows == 0:
            return total_s
        knot = load.context_sum // (load.rows * self.knot_tokens)
        at_zero_s, per_token_s = self.attention_line(number, load.rows, knot)
        return total_s + at_zero_s + per_token_s * (load.context_sum / load.rows)

    def transfer_s(self, number: int, load: BatchLoad) -> float:
        """Return the time of a batch on the link behind a stage."""
        is_last = number == len(self.stages) - 1
        return self.stages[number].transfer_s[load.samples if is_last else load.tokens]

    def attention_line(self, number: int, rows: int, knot: int) -> tuple[float, float]:
        """Return value at context 0 and slope of decode attention between two knots."""
        knots = self.stages[number].decode_s[rows]
        left_s, right_s = float(knots[knot]), float(knots[knot + 1])
        per_token_s = (right_s - left_s) / self.knot_tokens
        return left_s - per_token_s * (knot * self.knot_tokens), per_token_s

    @cached_property
    def block_capacity(self) -> int:
        """KV blocks that the tightest stage has room for; all stages share one block table."""
        return min(self.blocks)

"""Least seconds of a block in any batch of continuous batching, as a function of few figures.

A batch of T tokens, whose sampled sequences hold s tokens of KV cache and whose decodes attend to a
of them, keeps a layer for at least ``seconds(T) + attention(a)``. The first is the simulator's own
table, linear between its knots; beyond the last the times of kernels are convex, so that a line
through the last two knots is below them. The second is the higher of two lines below the attention
kernels' times for any number of sequences: through the origin, and for batches of many, which a
cache no longer holds, steeper but less by a constant.
"""

from dataclasses import dataclass
from math import ceil, inf

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.layers import LayerKind
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.latency.costs import HEAD_FORMAT, embeddings_s, heads_s, mixer_s, products_s
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.search.bound.rate_workload import RateWorkload
from llmpq_sim.simulator.continuous.compilation import (
    DENSE_TOKENS,
    TILE_TOKENS,
    knot_tokens,
    row_knots,
    token_knots,
)

FloatArray = NDArray[np.float64]

WIDE_ROWS = 64
"""Sequences from which a batch is one of many."""


@dataclass(frozen=True)
class DecodeAttention:
    """Least seconds of a batch's decodes by the tokens they attend to.

    Attributes:
        token_s: per token.
        wide_token_s, spared_s: per token, and less by so much, where that is more.
        limit_s: most that a token may be priced at, see `attention_work`.
    """

    token_s: float
    wide_token_s: float
    spared_s: float
    limit_s: float

    @property
    def wide_from(self) -> float:
        """Tokens from which the second line is the higher one."""
        steeper_s = self.wide_token_s - self.token_s
        return self.spared_s / steeper_s if steeper_s > 0.0 else inf

    def seconds(self, attended: FloatArray) -> FloatArray:
        """Return the least seconds of batches that attend to so many tokens."""
        wide_s = self.wide_token_s * attended - self.spared_s
        return np.maximum(self.token_s * attended, wide_s)


NO_ATTENTION = DecodeAttention(0.0, 0.0, 0.0, 0.0)


@dataclass(frozen=True)
class BlockWork:
    """Least seconds of a block, and how much of it a workload asks for.

    Attributes:
        tokens: knots of the tokens of a batch; for the LM head, of sampled tokens.
        seconds: at each knot.
        slope_s: seconds per token beyond the last.
        attention: of decodes.
        units: tokens that all batches compute together, at least.
        attended: tokens that all decodes attend to.
        fixed_s: what the block takes for the whole workload besides.
    """

    tokens: FloatArray
    seconds: FloatArray
    slope_s: float
    units: int
    attention: DecodeAttention = NO_ATTENTION
    attended: int = 0
    fixed_s: float = 0.0


def layer_work(
    kind: LayerKind,
    profile: DeviceProfile,
    format_name: str,
    workload: RateWorkload,
    attention: tuple[DecodeAttention, float],
    most_layers: int,
) -> BlockWork:
    """Return the work of a layer in a format.

    Args:
        kind: of layer.
        profile: of the device.
        format_name: of the weights.
        workload: what is asked.
        attention: see `attention_work`.
        most_layers: that share what each step of the device costs beside them.
    """
    tokens = token_knots(_far_tokens(profile, format_name))
    seconds = products_s(kind, profile, format_name, tokens)
    seconds = seconds + profile.step_overhead_s / most_layers
    return BlockWork(
        tokens,
        seconds,
        _last_slope_s(tokens, seconds),
        workload.computed_tokens,
        attention[0],
        workload.attended_contexts,
        attention[1],
    )


def embedding_work(model: ModelSpec, profile: DeviceProfile, workload: RateWorkload) -> BlockWork:
    """Return the work of the embedding, which is linear in the tokens."""
    tokens = np.array([1.0, 2.0])
    seconds = embeddings_s(model, profile, tokens)
    return BlockWork(tokens, seconds, _last_slope_s(tokens, seconds), workload.computed_tokens)


def head_work(model: ModelSpec, profile: DeviceProfile, workload: RateWorkload) -> BlockWork:
    """Return the work of the LM head and of sampling."""
    rows = token_knots(_far_tokens(profile, HEAD_FORMAT))
    seconds = heads_s(model, profile, rows)
    return BlockWork(rows, seconds, _last_slope_s(rows, seconds), workload.sampled_tokens)


def attention_work(
    model: ModelSpec,
    kind: LayerKind,
    profile: DeviceProfile,
    workload: RateWorkload,
    most_rows: int,
) -> tuple[DecodeAttention, float]:
    """Return a layer's least seconds of decode attention, and those of all prompts together.

    A request that loses its KV cache computes all it knows as a prompt anew: the token that it
    samples then is no decode, and the prefill attention over as many tokens stands in for the
    decode's. So a token that a decode attends to is priced at no more than that attention takes.
    """
    prompts = token_knots(max(workload.longest_prompt, workload.longest_context))
    prompts_s = mixer_s(kind, profile, "prefill", np.ones_like(prompts), prompts)
    all_prompts_s = _prompts_s(prompts, prompts_s, workload)
    if not workload.attending_steps:
        return NO_ATTENTION, all_prompts_s
    least, most = workload.shortest_context, workload.longest_context
    anew = np.concatenate([[least], prompts[(prompts > least) & (prompts < most)], [most]])
    limit_s = float((np.interp(anew, prompts, prompts_s) / anew).min())
    rows, attended, decode_s = _decodes_s(model, kind, profile, workload, most_rows)
    some = attended > 0
    per_token_s = decode_s[some] / attended[some]
    token_s = float(per_token_s.min())
    wide_token_s = float(per_token_s[rows[some] >= min(WIDE_ROWS, most_rows)].min())
    spared_s = max(float((wide_token_s * attended - decode_s).max()), 0.0)
    return DecodeAttention(token_s, wide_token_s, spared_s, limit_s), all_prompts_s


def _decodes_s(
    model: ModelSpec,
    kind: LayerKind,
    profile: DeviceProfile,
    workload: RateWorkload,
    most_rows: int,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Return sequences, tokens attended to and seconds of batches of decodes, at all knots."""
    step = knot_tokens(model.max_positions)
    first, last = workload.shortest_context // step, workload.longest_context // step + 1
    contexts = np.arange(first, last + 1) * float(step)
    rows, tokens = np.meshgrid(row_knots(most_rows), contexts, indexing="ij")
    decode_s = mixer_s(kind, profile, "decode", rows, np.maximum(tokens, 1.0))
    return rows, rows * tokens, decode_s


def _prompts_s(prompts: FloatArray, prompts_s: FloatArray, workload: RateWorkload) -> float:
    """Return the least seconds of prefill attention over all prompts that attend.

    A line ``a + b p`` with b at least 0 that is nowhere above the seconds per token of a prompt of
    p tokens is summed: ``a`` times all tokens, and b times the squares of the lengths.
    """
    if not workload.attended_prompts:
        return 0.0
    reached = int(np.searchsorted(prompts, workload.longest_prompt)) + 1
    knots, per_token_s = prompts[:reached], prompts_s[:reached] / prompts[:reached]
    rising_s = np.minimum.accumulate(per_token_s[::-1])[::-1]
    mean = workload.attended_squares / workload.attended_prompts
    return workload.attended_prompts * _hull(knots, rising_s, mean)


def _hull(points: FloatArray, values: FloatArray, at: float) -> float:
    """Return the highest value at a place of any line that is above none of the points.

    The least point of all on one side and on the other span that line.
    """
    left, right = points <= at, points >= at
    if not left.any() or not right.any():
        raise ValueError(f"expected points on both sides of {at}")
    before, after = points[left][:, None], points[right][None, :]
    span = np.maximum(after - before, 1e-300)
    share = np.where(after > before, (at - before) / span, 0.0)
    crossing = values[left][:, None] * (1.0 - share) + values[right][None, :] * share
    return float(crossing.min())


def _last_slope_s(tokens: FloatArray, seconds: FloatArray) -> float:
    """Return the seconds per token between the last two knots."""
    return float((seconds[-1] - seconds[-2]) / (tokens[-1] - tokens[-2]))


def _far_tokens(profile: DeviceProfile, format_name: str) -> int:
    """Return a number of tokens two knots beyond where any correction of a kernel's time ends."""
    name = profile.aliases.get(format_name, format_name)
    ends = [float(DENSE_TOKENS), profile.no_gain_tokens or 0.0]
    for gemm in (profile.gemms[name], profile.gemms["fp16"]):
        ends += [] if gemm.correction is None else [gemm.correction.most[0]]
    ends += [tokens for tokens, _ in profile.pipeline_factors.get(name, ())]
    return ceil(max(ends)) + TILE_TOKENS

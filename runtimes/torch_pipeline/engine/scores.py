"""Weights that queries give to keys: scores, their biases and masks, and the sums of values.

PyTorch's own kernels do it where scores are plain products; a cap of scores or sinks of attention
take the steps one by one, in blocks that bound their memory.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import scaled_dot_product_attention

from runtimes.torch_pipeline.weights import kernels


@dataclass(frozen=True)
class Scoring:
    """How a layer weighs keys.

    Attributes:
        scaling: of the scores; None for one over the root of the head width.
        softcap: bound of scores, ``cap * tanh(score / cap)`` (Gemma 2, arXiv:2408.00118).
        sinks: a score for each head that takes weight and gives no value (gpt-oss), (heads,).
        slopes: of linear position biases (ALiBi, arXiv:2108.12409), (heads,).
    """

    scaling: float | None
    softcap: float | None = None
    sinks: torch.Tensor | None = None
    slopes: torch.Tensor | None = None

    @property
    def is_plain(self) -> bool:
        """Whether scores are products with a mask or a bias, as PyTorch's kernels take them."""
        return self.softcap is None and self.sinks is None

    def mask_copies(self, rows: int, heads: int) -> int:
        """Return how many numbers there are at once for each query and key of a block."""
        if not self.is_plain:
            return rows * heads
        return 1 if self.slopes is None else len(self.slopes)


def biased(
    slopes: torch.Tensor | None, mask: torch.Tensor | None, span: int, query: torch.Tensor
) -> torch.Tensor | None:
    """Return a mask with linear position biases where there are any."""
    if slopes is None:
        return mask
    bias = slopes[:, None, None] * torch.arange(span, device=query.device)  # (heads, 1, span)
    bias = bias.to(query.dtype)[None]
    return bias if mask is None else bias.masked_fill(~mask, float("-inf"))


def attended(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    is_causal: bool,
    scoring: Scoring,
) -> torch.Tensor:
    """Return what queries attend to. Shape: (rows, heads, queries, width).

    Args:
        query: (rows, heads, queries, width).
        keys: (rows, KV heads, keys, width).
        values: of the same shape, but for their width.
        mask: which keys are seen, or what is added to their scores; None where all are.
        is_causal: whether a query sees the keys up to its own place; only of plain scores.
        scoring: how scores become weights.
    """
    if not scoring.is_plain:
        sinks = None if scoring.sinks is None else scoring.sinks.view(1, -1, 1, 1)
        return _in_steps(query, keys, values, mask, scoring, sinks)
    return scaled_dot_product_attention(
        query,
        keys,
        values,
        attn_mask=mask,
        is_causal=is_causal,
        scale=scoring.scaling,
        enable_gqa=query.shape[1] != keys.shape[1],
    )


def attended_by_decodes(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scoring: Scoring,
) -> torch.Tensor:
    """Return what one query a sequence attends to. Shape: (sequences, heads, head width).

    Args:
        query: (heads, sequences, head width).
        keys: (sequences, KV heads, span, head width).
        values: of the same shape, but for their width.
        mask: which keys are seen, or what is added to their scores; None where all are.
        scoring: how scores become weights.
    """
    # Heads that share keys become queries of one head: every kernel takes them so, with a mask too.
    kv_heads = keys.shape[1]
    shared = query.transpose(0, 1).unflatten(1, (kv_heads, -1))
    if mask is not None and mask.shape[1] != 1:  # a bias of each head
        mask = mask.squeeze(2).unflatten(1, (kv_heads, -1))
    if widens(query.device, query.dtype):
        shared, keys, values = shared.float(), keys.float(), values.float()
        if mask is not None and mask.is_floating_point():
            mask = mask.float()
    if scoring.is_plain:
        out = scaled_dot_product_attention(
            shared, keys, values, attn_mask=mask, scale=scoring.scaling
        )
    else:
        sinks = None if scoring.sinks is None else scoring.sinks.view(1, kv_heads, -1, 1)
        out = _in_steps(shared, keys, values, mask, scoring, sinks)
    return out.flatten(1, 2).to(query.dtype)


def _in_steps(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scoring: Scoring,
    sinks: torch.Tensor | None,
) -> torch.Tensor:
    """Return what ``attended`` does, its weights made in 32 bits as transformers makes them.

    The mask is of truth values, and sinks are scores that fit (rows, heads, queries, 1), or None.
    """
    kv_heads, width = keys.shape[1], query.shape[-1]
    scaling = width**-0.5 if scoring.scaling is None else scoring.scaling
    grouped = query.unflatten(1, (kv_heads, -1))
    scores = grouped.matmul(keys.unsqueeze(2).transpose(-1, -2)).mul(scaling).flatten(1, 2)
    if scoring.softcap is not None:
        scores = torch.tanh(scores / scoring.softcap) * scoring.softcap
    scores = scores.float()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    if sinks is not None:
        column = sinks.float().expand(*scores.shape[:-1], 1)
        scores = torch.cat([scores, column], dim=-1)
    weights = torch.softmax(scores, dim=-1)[..., : keys.shape[2]].to(values.dtype)
    return weights.unflatten(1, (kv_heads, -1)).matmul(values.unsqueeze(2)).flatten(1, 2)


def alibi_slopes(heads: int) -> torch.Tensor:
    """Return the slope of each head's linear position bias. Shape: (heads,).

    Powers of one ratio for a power of two heads; further heads take every other power of the ratio
    that twice as many would have. Source: Press et al., arXiv:2108.12409, sec. 3, and its code.
    """
    whole = 1 << (heads.bit_length() - 1)
    exponents = [8 * (i + 1) / whole for i in range(whole)]
    exponents += [4 * (2 * i + 1) / whole for i in range(heads - whole)]
    return torch.tensor([2.0**-exponent for exponent in exponents], dtype=torch.float32)


def widens(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether decode attention in 16 bits is computed in 32: on CPUs without native types.

    Measured on a CPU with AVX2 only, 8 rows of 1,024 tokens: 13.3 ms in bf16, 22 ms in fp16,
    3.8 ms with keys and values widened first.
    """
    if device.type != "cpu" or dtype == torch.float32:
        return False
    return dtype == torch.float16 or not kernels.has_native_bf16(device)

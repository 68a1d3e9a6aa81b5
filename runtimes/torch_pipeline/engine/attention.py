"""Attention of a step's tokens to the KV cache.

Tokens of all sequences lie in one row without padding, so that matrix products see them at once;
only attention tells sequences apart. transformers calls ``ragged_attention`` in place of its own
implementations and leaves masks and caches to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention

from runtimes.torch_pipeline.engine.kv_cache import Chunks, KvCache, StepLayout
from runtimes.torch_pipeline.weights import kernels

MASK_ELEMENTS = 1 << 22
"""Most elements of a mask at once, 4 MiB, and up to 16 as the numbers that kernels make of it: a
chunk late in a long prompt sees more keys than its activations have room for."""

IMPLEMENTATION = "llmpq"
"""Name under which transformers knows it."""


@dataclass
class StageState:
    """What attention of every layer of a stage shares.

    Attributes:
        cache: keys and values.
        layout: of the step under way.
        slopes: of linear position biases, (heads,), where the architecture has them.
        tile_tokens: queries of a prompt attended to at once, each sequence alone; None to attend
            to all that are there at once.
    """

    cache: KvCache
    layout: StepLayout | None = None
    slopes: torch.Tensor | None = None
    tile_tokens: int | None = None


def ragged_attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None = None,  # noqa: ARG001 - transformers passes it
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> tuple[torch.Tensor, None]:
    """Store the keys and values of a step's tokens, and return what its queries attend to.

    Args:
        module: the layer's attention; its ``stage_state`` and ``layer_idx`` say where it is.
        query: (1, heads, tokens, head width).
        key: (1, KV heads, tokens, head width).
        value: of the same shape.
        attention_mask: not used.
        scaling: of the scores.
        sliding_window: most context tokens that a token sees, or None for all.

    Returns:
        (1, tokens, heads, head width), and None where others return the scores' weights.
    """
    state: StageState = module.stage_state
    out = attend(state, module.layer_idx, (query[0], key[0], value[0]), scaling, sliding_window)
    return out.unsqueeze(0), None


def attend(
    state: StageState,
    layer: int,
    projected: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    scaling: float | None,
    window: int | None = None,
) -> torch.Tensor:
    """Store a step's keys and values in a layer's cache and return what its queries attend to.

    Args:
        state: cache and layout.
        layer: number of the layer within the stage.
        projected: queries (heads, tokens, head width), keys and values (KV heads, ...).
        scaling: of the scores; None for one over the root of the head width.
        window: most context tokens that a token sees, or None for all.

    Returns:
        (tokens, heads, head width).
    """
    layout = state.layout
    if layout is None:
        raise RuntimeError("attention was called outside a step")
    query = projected[0]
    keys, values = state.cache.of_layer(layer)
    out = query.new_empty(query.shape[1], query.shape[0], query.shape[2])
    if layout.decodes:
        of_decodes = tuple(part[:, : layout.decodes] for part in projected)
        decode = _decode if state.tile_tokens is None else _decode_alone
        out[: layout.decodes] = decode(state, layout, of_decodes, (keys, values), scaling, window)
    for number, chunks in enumerate(layout.chunks):
        end = chunks.first_token + chunks.rows * chunks.tokens
        of_chunks = tuple(part[:, chunks.first_token : end] for part in projected)
        prefill = _prefill if state.tile_tokens is None else _prefill_in_tiles
        out[chunks.first_token : end] = prefill(
            state, (layout, number), of_chunks, (keys, values), scaling, window
        )
    return out


def _decode(
    state: StageState,
    layout: StepLayout,
    projected: tuple[torch.Tensor, ...],
    cached: tuple[torch.Tensor, torch.Tensor],
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    query, *new = projected
    for stored, part in zip(cached, new, strict=True):
        stored[layout.decode_rows, :, layout.decode_starts] = part.transpose(0, 1)
    rows, span = layout.decode_range, layout.span
    if rows is None:
        keys, values = (stored[layout.decode_rows, :, :span] for stored in cached)
    else:
        keys, values = (stored[rows, :, :span] for stored in cached)
    mask = _biased(state.slopes, layout.decode_mask(window), span, query)
    return _attention_of_decodes(query, keys, values, mask, scaling)


def _attention_of_decodes(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    scaling: float | None,
) -> torch.Tensor:
    """Return what one query a sequence attends to. Shape: (sequences, heads, head width).

    Args:
        query: (heads, sequences, head width).
        keys: (sequences, KV heads, span, head width).
        values: of the same shape.
        mask: which keys are seen, or what is added to their scores; None where all are.
        scaling: of the scores.
    """
    # Heads that share keys become queries of one head: every kernel takes them so, with a mask too.
    shared = query.transpose(0, 1).unflatten(1, (keys.shape[1], -1))
    if widens(query.device, query.dtype):
        shared, keys, values = shared.float(), keys.float(), values.float()
        if mask is not None and mask.is_floating_point():
            mask = mask.float()
    out = _attention(shared, keys, values, mask, False, scaling)
    return out.flatten(1, 2).to(query.dtype)


def _prefill(
    state: StageState,
    place: tuple[StepLayout, int],
    projected: tuple[torch.Tensor, ...],
    cached: tuple[torch.Tensor, torch.Tensor],
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    layout, number = place
    chunks = layout.chunks[number]
    query, *new = (_by_row(part, chunks) for part in projected)
    rows = slice(chunks.first_row, chunks.first_row + chunks.rows)
    for stored, part in zip(cached, new, strict=True):
        stored[rows, :, chunks.start : chunks.span] = part
    keys, values = new if chunks.start == 0 else (c[rows, :, : chunks.span] for c in cached)
    if layout.is_causal(number, window) and state.slopes is None:
        out = _attention(query, keys, values, None, True, scaling)
    else:
        parts = []
        for first, tokens in _blocks(chunks, 1 if state.slopes is None else len(state.slopes)):
            end = first + tokens
            mask = layout.seen_keys(first, tokens, window)
            bias = _biased(state.slopes, mask, end, query)
            own = query[:, :, first - chunks.start : end - chunks.start]
            seen = (keys[:, :, :end], values[:, :, :end])
            parts.append(_attention(own, *seen, bias, False, scaling))
        out = torch.cat(parts, dim=2)
    return out.transpose(1, 2).reshape(-1, out.shape[1], out.shape[3])


def _blocks(chunks: Chunks, heads: int) -> Iterator[tuple[int, int]]:
    """Yield first position and tokens of blocks of queries whose mask has MASK_ELEMENTS at most.

    Args:
        chunks: what is cut, of one query at least.
        heads: that have masks of their own.
    """
    most = max(1, MASK_ELEMENTS // (chunks.span * heads))
    for first in range(chunks.start, chunks.span, most):
        yield first, min(most, chunks.span - first)


def _decode_alone(
    state: StageState,
    layout: StepLayout,
    projected: tuple[torch.Tensor, ...],
    cached: tuple[torch.Tensor, torch.Tensor],
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Do as ``_decode``, each sequence by itself over exactly the keys that it sees."""
    query, *new = projected
    for stored, part in zip(cached, new, strict=True):
        stored[layout.decode_rows, :, layout.decode_starts] = part.transpose(0, 1)
    out = query.new_empty(query.shape[1], query.shape[0], query.shape[2])
    for number, (row, start) in enumerate(layout.decode_places):
        first = 0 if window is None else max(0, start + 1 - window)
        keys, values = (stored[row : row + 1, :, first : start + 1] for stored in cached)
        own = query[:, number : number + 1]
        bias = _biased(state.slopes, None, start + 1, own)
        bias = None if bias is None else bias[..., first:]
        out[number : number + 1] = _attention_of_decodes(own, keys, values, bias, scaling)
    return out


def _prefill_in_tiles(
    state: StageState,
    place: tuple[StepLayout, int],
    projected: tuple[torch.Tensor, ...],
    cached: tuple[torch.Tensor, torch.Tensor],
    scaling: float | None,
    window: int | None,
) -> torch.Tensor:
    """Do as ``_prefill``, in tiles of queries that begin at multiples of their length.

    Wherever a prompt is cut, a token meets the same shapes: a whole tile of queries and the keys up
    to its end. What is not there yet is zero, and is not seen.
    """
    layout, number = place
    chunks, tile = layout.chunks[number], state.tile_tokens or 1
    query, *new = (_by_row(part, chunks) for part in projected)
    rows = slice(chunks.first_row, chunks.first_row + chunks.rows)
    end = -(-chunks.span // tile) * tile
    for stored, part in zip(cached, new, strict=True):
        stored[rows, :, chunks.start : chunks.span] = part
        stored[rows, :, chunks.span : end] = 0
    out = torch.empty_like(query)
    for first in range(chunks.start // tile * tile, end, tile):
        mask = layout.seen_keys(first, tile, window)
        mask = _biased(state.slopes, mask, first + tile, query)
        begin, stop = max(first, chunks.start), min(first + tile, chunks.span)
        for row in range(chunks.rows):
            whole = query.new_zeros(1, query.shape[1], tile, query.shape[3])
            part = slice(begin - chunks.start, stop - chunks.start)
            whole[0, :, begin - first : stop - first] = query[row, :, part]
            at = chunks.first_row + row
            keys, values = (stored[at : at + 1, :, : first + tile] for stored in cached)
            seen = _attention(whole, keys, values, mask, False, scaling)
            out[row, :, part] = seen[0, :, begin - first : stop - first]
    return out.transpose(1, 2).reshape(-1, out.shape[1], out.shape[3])


def _by_row(part: torch.Tensor, chunks: Chunks) -> torch.Tensor:
    """Return (heads, rows x tokens, width) as (rows, heads, tokens, width)."""
    heads, _, width = part.shape
    return part.reshape(heads, chunks.rows, chunks.tokens, width).transpose(0, 1)


def alibi_slopes(heads: int) -> torch.Tensor:
    """Return the slope of each head's linear position bias. Shape: (heads,).

    Powers of one ratio for a power of two heads; further heads take every other power of the ratio
    that twice as many would have. Source: Press et al., arXiv:2108.12409, sec. 3, and its code.
    """
    whole = 1 << (heads.bit_length() - 1)
    exponents = [8 * (i + 1) / whole for i in range(whole)]
    exponents += [4 * (2 * i + 1) / whole for i in range(heads - whole)]
    return torch.tensor([2.0**-exponent for exponent in exponents], dtype=torch.float32)


def _biased(
    slopes: torch.Tensor | None, mask: torch.Tensor | None, span: int, query: torch.Tensor
) -> torch.Tensor | None:
    """Return a mask with linear position biases (ALiBi, arXiv:2108.12409) where there are any."""
    if slopes is None:
        return mask
    bias = slopes[:, None, None] * torch.arange(span, device=query.device)  # (heads, 1, span)
    bias = bias.to(query.dtype)[None]
    return bias if mask is None else bias.masked_fill(~mask, float("-inf"))


def _attention(
    query: torch.Tensor,
    keys: torch.Tensor,
    values: torch.Tensor,
    mask: torch.Tensor | None,
    is_causal: bool,
    scaling: float | None,
) -> torch.Tensor:
    """Return what queries attend to. Shape: (rows, heads, queries, width)."""
    return scaled_dot_product_attention(
        query,
        keys,
        values,
        attn_mask=mask,
        is_causal=is_causal,
        scale=scaling,
        enable_gqa=query.shape[1] != keys.shape[1],
    )


def widens(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether decode attention in 16 bits is computed in 32: on CPUs without native types.

    Measured on a CPU with AVX2 only, 8 rows of 1,024 tokens: 13.3 ms in bf16, 22 ms in fp16,
    3.8 ms with keys and values widened first.
    """
    if device.type != "cpu" or dtype == torch.float32:
        return False
    return dtype == torch.float16 or not kernels.has_native_bf16(device)

"""Attention of a step's tokens to the KV cache.

Tokens of all sequences lie in one row without padding, so that matrix products see them at once;
only attention tells sequences apart. transformers calls ``ragged_attention`` in place of its own
implementations and leaves masks and caches to it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from runtimes.torch_pipeline.engine.kv_cache import Chunks, KvCache, LayerCache, StepLayout
from runtimes.torch_pipeline.engine.scores import Scoring, attended, attended_by_decodes, biased

MASK_ELEMENTS = 1 << 22
"""Most elements of a mask at once, 4 MiB, and up to 16 as the numbers that kernels make of it: a
chunk late in a long prompt sees more keys than its activations have room for."""

WINDOW_QUERIES = 128
"""Fewest queries attended to at once where they see a window: more would meet keys that none of
them sees, fewer would be too small for kernels."""

IMPLEMENTATION = "llmpq"
"""Name under which transformers knows it."""

Projected = tuple[torch.Tensor, ...]
"""Queries (heads, tokens, head width), keys and values (KV heads, tokens, head width)."""


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
    **others: Any,
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
        others: ``softcap``, a bound of the scores, and ``s_aux``, a score for each head that takes
            weight and gives no value, where an architecture has them.

    Returns:
        (1, tokens, heads, head width), and None where others return the scores' weights.
    """
    state: StageState = module.stage_state
    scoring = Scoring(scaling, others.get("softcap"), others.get("s_aux"), state.slopes)
    projected = (query[0], key[0], value[0])
    return attend(state, module.layer_idx, projected, scoring, sliding_window).unsqueeze(0), None


def attend(
    state: StageState,
    layer: int,
    projected: Projected,
    scoring: Scoring,
    window: int | None = None,
) -> torch.Tensor:
    """Store a step's keys and values in a layer's cache and return what its queries attend to.

    Args:
        state: cache and layout.
        layer: number of the layer within the stage.
        projected: queries (heads, tokens, head width), keys and values (KV heads, ...).
        scoring: how scores become weights.
        window: most context tokens that a token sees, or None for all.

    Returns:
        (tokens, heads, head width).
    """
    layout = state.layout
    if layout is None:
        raise RuntimeError("attention was called outside a step")
    cached = state.cache.of_layer(layer)
    _check_window(state.cache, cached, window)
    query, _, value = projected
    out = query.new_empty(query.shape[1], query.shape[0], value.shape[2])
    if layout.decodes:
        of_decodes = tuple(part[:, : layout.decodes] for part in projected)
        decode = _decode if state.tile_tokens is None else _decode_alone
        out[: layout.decodes] = decode(layout, of_decodes, cached, scoring)
    for number, chunks in enumerate(layout.chunks):
        end = chunks.first_token + chunks.rows * chunks.tokens
        of_chunks = tuple(part[:, chunks.first_token : end] for part in projected)
        by_row = tuple(_by_row(part, chunks) for part in of_chunks)
        if state.tile_tokens is None:
            seen = _prefill((layout, number), by_row, cached, scoring)
        else:
            seen = _prefill_in_tiles((layout, number), by_row, cached, scoring, state.tile_tokens)
        out[chunks.first_token : end] = seen.transpose(1, 2).reshape(-1, *out.shape[1:])
    return out


def _check_window(cache: KvCache, cached: LayerCache, window: int | None) -> None:
    """Check that a cache keeps just what a layer sees; some say it in their masks alone."""
    seen = window if window is not None and window < cache.context_tokens else None
    if window is not None and cached.window != seen:
        raise RuntimeError(f"a layer with window {window} has a cache of window {cached.window}")


def _decode(
    layout: StepLayout, projected: Projected, cached: LayerCache, scoring: Scoring
) -> torch.Tensor:
    query, *new = projected
    cached.put_decodes(layout, new)
    rows, tokens = layout.decode_range, min(layout.span, cached.tokens)
    at = layout.decode_rows if rows is None else rows
    keys, values = cached.keys[at, :, :tokens], cached.values[at, :, :tokens]
    mask = biased(scoring.slopes, layout.decode_mask(tokens), tokens, query)
    return attended_by_decodes(query, keys, values, mask, scoring)


def _prefill(
    place: tuple[StepLayout, int], by_row: Projected, cached: LayerCache, scoring: Scoring
) -> torch.Tensor:
    """Keep keys and values of chunks, and return what their queries attend to.

    Args:
        place: the layout, and which of its chunks.
        by_row: queries, keys and values, (rows, heads, tokens, head width).
        cached: of the layer.
        scoring: how scores become weights.
    """
    layout, number = place
    chunks, window = layout.chunks[number], cached.window
    query, *new = by_row
    rows = slice(chunks.first_row, chunks.first_row + chunks.rows)
    first_key = chunks.first_key(window)
    keys, values = _with_earlier(chunks, new, cached, rows)
    if layout.is_causal(number, window) and scoring.is_plain and scoring.slopes is None:
        return attended(query, keys, values, None, True, scoring)
    parts = []
    copies = scoring.mask_copies(chunks.rows, query.shape[1])
    for first, tokens in _blocks(chunks, copies, window):
        end = first + tokens
        low = first_key if window is None else max(first_key, first + 1 - window)
        mask = layout.seen_keys(first, tokens, window, low)
        bias = biased(scoring.slopes, mask, end, query)
        own = query[:, :, first - chunks.start : end - chunks.start]
        seen = slice(low - first_key, end - first_key)
        parts.append(attended(own, keys[:, :, seen], values[:, :, seen], bias, False, scoring))
    return torch.cat(parts, dim=2)


def _with_earlier(
    chunks: Chunks, new: list[torch.Tensor], cached: LayerCache, rows: slice
) -> tuple[torch.Tensor, ...]:
    """Keep keys and values of chunks, and return them after the earlier ones that they see."""
    if chunks.start == 0:
        cached.put_chunks(chunks, new)
        return tuple(new)
    if not cached.is_ring:
        cached.put_chunks(chunks, new)
        return cached.before(rows, 0, chunks.span)
    before = cached.before(rows, chunks.first_key(cached.window), chunks.start)
    cached.put_chunks(chunks, new)  # in the places of those that were read just now
    return tuple(torch.cat(both, dim=2) for both in zip(before, new, strict=True))


def _blocks(chunks: Chunks, copies: int, window: int | None) -> Iterator[tuple[int, int]]:
    """Yield first position and tokens of blocks of queries whose mask has MASK_ELEMENTS at most.

    Args:
        chunks: what is cut, of one query at least.
        copies: numbers there are for each query and key.
        window: that queries see; then blocks are no longer, so that few keys are met in vain.
    """
    most = max(1, MASK_ELEMENTS // (chunks.span * copies))
    if window is not None:
        most = min(most, max(window, WINDOW_QUERIES))
    for first in range(chunks.start, chunks.span, most):
        yield first, min(most, chunks.span - first)


def _decode_alone(
    layout: StepLayout, projected: Projected, cached: LayerCache, scoring: Scoring
) -> torch.Tensor:
    """Do as ``_decode``, each sequence by itself over exactly the keys that it sees."""
    query, *new = projected
    cached.put_decodes(layout, new)
    out = query.new_empty(query.shape[1], query.shape[0], new[1].shape[2])
    for number, (row, start) in enumerate(layout.decode_places):
        first = 0 if cached.window is None else max(0, start + 1 - cached.window)
        keys, values = cached.before(slice(row, row + 1), first, start + 1)
        own = query[:, number : number + 1]
        bias = biased(scoring.slopes, None, start + 1, own)
        bias = None if bias is None else bias[..., first:]
        out[number : number + 1] = attended_by_decodes(own, keys, values, bias, scoring)
    return out


def _prefill_in_tiles(
    place: tuple[StepLayout, int],
    by_row: Projected,
    cached: LayerCache,
    scoring: Scoring,
    tile: int,
) -> torch.Tensor:
    """Do as ``_prefill``, in tiles of queries that begin at multiples of their length.

    Wherever a prompt is cut, a token meets the same shapes: a whole tile of queries and the keys up
    to its end, from as far back as a window reaches. What is not there is zero, and is not seen.
    """
    layout, number = place
    chunks, window = layout.chunks[number], cached.window
    query, *new = by_row
    rows = slice(chunks.first_row, chunks.first_row + chunks.rows)
    end = -(-chunks.span // tile) * tile
    first_tile = chunks.start // tile * tile
    low = max(0, first_tile - _reach(window, tile)) if window is not None else 0
    keys, values = _spread(chunks, new, cached, rows, (low, end))
    out = query.new_empty(*query.shape[:3], values.shape[3])
    for first in range(first_tile, end, tile):
        begin, stop = max(first, chunks.start), min(first + tile, chunks.span)
        own = slice(begin - chunks.start, stop - chunks.start)
        first_key = 0 if window is None else max(0, first - _reach(window, tile))
        seen = slice(first_key - low, first + tile - low)
        mask = layout.seen_keys(first, tile, window, first_key)
        mask = biased(scoring.slopes, mask, first + tile, query)
        for row in range(chunks.rows):
            whole = query.new_zeros(1, query.shape[1], tile, query.shape[3])
            whole[0, :, begin - first : stop - first] = query[row, :, own]
            of_row = [part[row : row + 1, :, seen] for part in (keys, values)]
            if cached.is_ring:  # a copy, whose strides no chunk decides
                of_row = [part.contiguous() for part in of_row]
            tiled = attended(whole, of_row[0], of_row[1], mask, False, scoring)
            out[row, :, own] = tiled[0, :, begin - first : stop - first]
    return out


def _reach(window: int, tile: int) -> int:
    """Return how far before a tile its first query may see, in whole tiles."""
    return -(-(window - 1) // tile) * tile


def _spread(
    chunks: Chunks,
    new: list[torch.Tensor],
    cached: LayerCache,
    rows: slice,
    positions: tuple[int, int],
) -> tuple[torch.Tensor, ...]:
    """Keep keys and values of chunks, and return those of a range of positions.

    They are zero where nothing is kept or known yet.
    """
    low, end = positions
    if not cached.is_ring:
        cached.put_chunks(chunks, new)
        for stored in (cached.keys, cached.values):
            stored[rows, :, chunks.span : end] = 0
        return cached.before(rows, low, end)
    first_key = chunks.first_key(cached.window)
    before = cached.before(rows, first_key, chunks.start)
    cached.put_chunks(chunks, new)
    parts = []
    for old, own in zip(before, new, strict=True):
        whole = own.new_zeros(own.shape[0], own.shape[1], end - low, own.shape[3])
        whole[:, :, first_key - low : chunks.start - low] = old
        whole[:, :, chunks.start - low : chunks.span - low] = own
        parts.append(whole)
    return tuple(parts)


def _by_row(part: torch.Tensor, chunks: Chunks) -> torch.Tensor:
    """Return (heads, rows x tokens, width) as (rows, heads, tokens, width)."""
    heads, _, width = part.shape
    return part.reshape(heads, chunks.rows, chunks.tokens, width).transpose(0, 1)

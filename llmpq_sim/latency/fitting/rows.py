"""Selection of measured rows to fit on, with reasons for the others."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.cluster import Device
from llmpq_sim.core.formats import format_spelled
from llmpq_sim.latency.work import BoolArray, FloatArray

TextArray = NDArray[np.str_]

OPERATORS = (
    *("gemm", "attention", "layer", "embedding", "head", "visit", "served", "link"),
    *("experts", "latent", "recurrent"),
)

SMALLEST_WIDTH = 512
"""Narrower matrices occur in no model that is planned for, and behave differently; whoever times
them for an own model plans for one."""

NEEDED_SIZES = {
    "embedding": ("m", "n"),
    "head": ("m", "n", "k"),
    "visit": ("batch",),
    "served": ("batch", "seq", "layers"),
    "link": ("bytes",),
}
"""Sizes of what surrounds layers."""

WEIGHT_COPIES = 5
HOT_TOKENS = 256
"""The collectors of 16-bit tables rotate five copies of the weights. Where those fit into the
last-level cache a small batch beats the memory bandwidth, which serving never does."""


@dataclass(frozen=True)
class Measurements:
    """Timed kernels as columns; absent texts are empty, absent numbers are not-a-number.

    Attributes:
        op: one of OPERATORS, or something that is not used.
        phase: ``prefill``, ``decode``, or ``any`` for a matrix product.
        quant: weight format, as the source spells it.
        backend, version: kernel library.
        gpu: device, as the source spells it.
        model: for whole layers, a model's name.
        kernel: ``fused`` decodes weights within a product, ``dense`` before it; empty where there
            is one kernel only, or the source does not say. Of a pipeline step the end of the model
            that the stage has, ``first`` or ``last``, followed by ``-dense`` where all weights
            were decoded before products. Of a recurrent mixer ``convolution`` or ``scan``; of
            latent attention ``attention``, or ``module`` where its products are in the time.
        routing: how tokens were spread over experts, ``balanced`` where evenly.
        algorithm: of a recurrent mixer.
        m, n, k: tokens, output features and input features of a matrix product; of experts
            tokens, inner size and width.
        batch, seq: sequences, and prompt or context tokens of each.
        heads, kv_heads, head_dim, kv_bits: of attention. Of a recurrent mixer heads, key heads and
            key width of the state, and ``value_dim`` its other width.
        window: tokens that are attended to, 0 or absent for all.
        cached: tokens before a prompt that are attended to.
        experts, chosen: experts, and how many a token goes through.
        tensor_ranks, expert_ranks: devices that share every expert, and that share out experts;
            what is timed is the share of one.
        layers: decoder layers among which a layer's time was shared.
        bytes: of a message.
        latency_us: measured time; of repeats their median.
        spread: half the distance between the quartiles of repeats, relative to the median.
        repeats: how many there were.
    """

    op: TextArray
    phase: TextArray
    quant: TextArray
    backend: TextArray
    version: TextArray
    gpu: TextArray
    model: TextArray
    kernel: TextArray
    routing: TextArray
    algorithm: TextArray
    m: FloatArray
    n: FloatArray
    k: FloatArray
    batch: FloatArray
    seq: FloatArray
    heads: FloatArray
    kv_heads: FloatArray
    head_dim: FloatArray
    kv_bits: FloatArray
    window: FloatArray
    cached: FloatArray
    value_dim: FloatArray
    experts: FloatArray
    chosen: FloatArray
    tensor_ranks: FloatArray
    expert_ranks: FloatArray
    layers: FloatArray
    bytes: FloatArray
    latency_us: FloatArray
    spread: FloatArray
    repeats: FloatArray

    def __len__(self) -> int:
        return len(self.latency_us)

    def where(self, mask: BoolArray | NDArray[np.intp]) -> "Measurements":
        """Return the rows that a mask or a list of positions picks."""
        columns = (getattr(self, column.name)[mask] for column in fields(self))
        return Measurements(*columns)

    def joined(self, other: "Measurements") -> "Measurements":
        """Return these rows, then the others."""
        pairs = ((getattr(self, c.name), getattr(other, c.name)) for c in fields(self))
        return Measurements(*(np.concatenate(pair) for pair in pairs))


@dataclass(frozen=True)
class UsableRows:
    """Rows a fit may use, by operator, and how many were dropped for which reason."""

    gemms: Measurements
    attention: Measurements
    layers: Measurements
    embeddings: Measurements
    heads: Measurements
    empty_steps: Measurements
    pipeline_steps: Measurements
    links: Measurements
    parts: Measurements
    dropped: dict[str, int]

    def __len__(self) -> int:
        parts = (self.gemms, self.attention, self.layers, self.parts)
        ends = (self.embeddings, self.heads, self.empty_steps, self.pipeline_steps, self.links)
        return sum(map(len, (*parts, *ends)))

    @property
    def are_repeated(self) -> bool:
        """Whether products are medians of repeats, made for the shapes that will be served."""
        return len(self.gemms) > 0 and bool(np.isfinite(self.gemms.spread).all())


def usable_rows(
    measurements: Measurements,
    device: Device,
    also_called: tuple[str, ...] = (),
    kernels: str | None = None,
) -> UsableRows:
    """Return the rows that describe kernels of this project's runtimes on this device.

    Of several kernel libraries the one that the kernel set is named after is kept, or else the one
    that covers most formats. Parts beyond dense layers are left for `part_rows` to sort.

    Args:
        measurements: all rows.
        device: what is to be described.
        also_called: other names of it in the rows.
        kernels: the kernel set asked for, such as ``vllm-0.24.0``.
    """
    dropped: Counter[str] = Counter()
    rows = drop(measurements, dropped, _not_a_kernel)
    rows = drop(rows, dropped, _without_a_time)
    rows = drop(rows, dropped, lambda kept: _other_device(kept, device, also_called))
    gemms = rows.where(rows.op == "gemm")
    for test in (other_format, _incomplete_gemm, _narrow):
        gemms = drop(gemms, dropped, test)
    gemms = drop(gemms, dropped, lambda kept: _l2_hot(kept, device))
    parts = rows.where(is_part(rows))
    attention = rows.where((rows.op == "attention") & ~is_part(rows))
    for test in (_incomplete_attention, quantized_cache):
        attention = drop(attention, dropped, test)
    layers = rows.where(rows.op == "layer")
    for test in (other_format, _incomplete_layer):
        layers = drop(layers, dropped, test)
    ends = [_complete(rows, name, dropped) for name in NEEDED_SIZES]
    gemms, attention, layers, embeddings, heads, empty_steps, pipeline_steps, links = (
        without_repeats(drop(kept, dropped, lambda each: other_library(each, kernels)), dropped)
        for kept in (gemms, attention, layers, *ends)
    )
    around = (embeddings, heads, empty_steps, pipeline_steps, links)
    return UsableRows(gemms, attention, layers, *around, parts, dict(dropped))


def is_part(rows: Measurements) -> BoolArray:
    """Return which rows are of parts that dense layers without a window have not."""
    is_windowed = (rows.op == "attention") & (rows.window > 0)
    return np.asarray(np.isin(rows.op, ("experts", "latent", "recurrent")) | is_windowed)


def formats_of(rows: Measurements) -> TextArray:
    """Return the weight format of each row, empty where it is none of ours."""
    names, inverse = np.unique(rows.quant, return_inverse=True)
    formats = [format_spelled(str(name)) for name in names]
    return np.asarray(formats, dtype=np.str_)[inverse] if len(rows) else rows.quant


Test = Callable[[Measurements], tuple[str, BoolArray]]
"""Says why rows are dropped, and which."""


def drop(rows: Measurements, dropped: Counter[str], test: Test) -> Measurements:
    """Return the rows that pass a test, and count the others."""
    reason, bad = test(rows)
    if bad.any():
        dropped[reason] += int(bad.sum())
    return rows.where(~bad)


def _not_a_kernel(rows: Measurements) -> tuple[str, BoolArray]:
    return "not a gemm, attention or layer row", ~np.isin(rows.op, OPERATORS)


def _other_device(
    rows: Measurements, device: Device, also_called: tuple[str, ...]
) -> tuple[str, BoolArray]:
    own = ("", device.name, device.name.replace("-", "_"), *also_called)
    return f"another device than {device.name}", ~np.isin(rows.gpu, own)


def _without_a_time(rows: Measurements) -> tuple[str, BoolArray]:
    latency = rows.latency_us
    return "latency is not a positive number", ~(np.isfinite(latency) & (latency > 0))


def other_format(rows: Measurements) -> tuple[str, BoolArray]:
    """Return which rows are in a format that is none of ours."""
    return "not a weight-only format (fp8, w8a8)", formats_of(rows) == ""


def _incomplete_gemm(rows: Measurements) -> tuple[str, BoolArray]:
    return "m, n or k is not positive", ~positive(rows.m, rows.n, rows.k)


def _incomplete_attention(rows: Measurements) -> tuple[str, BoolArray]:
    sizes = positive(rows.batch, rows.seq, rows.heads, rows.kv_heads, rows.head_dim)
    known = np.isin(rows.phase, ("prefill", "decode"))
    return "attention row lacks a phase or a size", ~(sizes & known)


def _incomplete_layer(rows: Measurements) -> tuple[str, BoolArray]:
    known = np.isin(rows.phase, ("prefill", "decode")) & (rows.model != "")
    return "layer row lacks a model, phase or size", ~(positive(rows.batch, rows.seq) & known)


def _narrow(rows: Measurements) -> tuple[str, BoolArray]:
    narrow = (np.minimum(rows.n, rows.k) < SMALLEST_WIDTH) & ~np.isfinite(rows.spread)
    return f"n or k below {SMALLEST_WIDTH}", narrow


def _l2_hot(rows: Measurements, device: Device) -> tuple[str, BoolArray]:
    copies_bytes = WEIGHT_COPIES * rows.n * rows.k * 2
    small = (copies_bytes < 1.25 * device.l2_bytes) & (rows.m <= HOT_TOKENS)
    single = ~np.isfinite(rows.spread)
    return "weights stayed in the cache", small & single & (formats_of(rows) == "fp16")


def _complete(rows: Measurements, op: str, dropped: Counter[str]) -> Measurements:
    """Return the rows of an operator that have all its sizes."""
    own = rows.where(rows.op == op)
    sizes = [getattr(own, name) for name in NEEDED_SIZES[op]]
    needed = ", ".join(NEEDED_SIZES[op])
    return drop(own, dropped, lambda _: (f"{op} row lacks {needed}", ~positive(*sizes)))


def quantized_cache(rows: Measurements) -> tuple[str, BoolArray]:
    """Return which rows of attention read fewer than 16 bits a key."""
    return "KV cache is not 16 bit", np.isfinite(rows.kv_bits) & (rows.kv_bits != 16)


def other_library(rows: Measurements, kernels: str | None) -> tuple[str, BoolArray]:
    """Return which rows are of another library than the one that is kept."""
    library = np.char.lower(np.char.add(np.char.add(rows.backend, " "), rows.version))
    named = [name for name in np.unique(library).tolist() if _is_named(name, kernels)]
    among = np.isin(library, named) if named else np.ones(len(rows), np.bool_)
    kept = _widest_library(library[among], formats_of(rows)[among])
    return "another kernel library", library != kept


def _is_named(library: str, kernels: str | None) -> bool:
    """Return whether a kernel set is named after a library, its whole version or less."""
    named = library.replace(" ", "-")
    return kernels is not None and (named == kernels or named.startswith(f"{kernels}."))


def _widest_library(library: TextArray, formats: TextArray) -> str:
    """Return the library with most formats, then most rows, then the first by name."""

    def rank(name: str) -> tuple[int, int]:
        own = library == name
        return len(np.unique(formats[own])), int(own.sum())

    return max(np.unique(library).tolist(), key=rank, default="")


def without_repeats(rows: Measurements, dropped: Counter[str]) -> Measurements:
    """Return one row for each distinct key, with the median latency."""
    sizes = (rows.m, rows.n, rows.k, rows.batch, rows.seq, rows.layers, rows.bytes)
    layout = (rows.heads, rows.kv_heads, rows.head_dim, rows.value_dim, rows.window)
    ranks = (rows.experts, rows.chosen, rows.tensor_ranks, rows.expert_ranks)
    texts = (rows.op, rows.phase, formats_of(rows), rows.model, rows.kernel, rows.algorithm)
    codes = [
        np.unique(column, return_inverse=True)[1] for column in (*texts, *sizes, *layout, *ranks)
    ]
    _, first, group = np.unique(
        np.stack(codes, axis=1), axis=0, return_index=True, return_inverse=True
    )
    if len(first) == len(rows):
        return rows
    dropped["repeats, of which the median was kept"] += len(rows) - len(first)
    order = np.argsort(group, kind="stable")
    ends = np.cumsum(np.bincount(group))[:-1]
    latency = [np.median(part) for part in np.split(rows.latency_us[order], ends)]
    return replace(rows.where(first), latency_us=np.asarray(latency))


def positive(*columns: FloatArray) -> BoolArray:
    """Return where all columns are finite and above zero."""
    good: BoolArray = np.all([np.isfinite(column) & (column > 0) for column in columns], axis=0)
    return good

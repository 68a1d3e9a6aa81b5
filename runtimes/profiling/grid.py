"""Grid of measurements of a profile.

Sizes grow by powers of two and half powers, because kernels switch in between: thinning the tokens
of integer formats costs up to 12 points of the 90th percentile (learning curves over public
tables). Contexts and prompts include lengths that no tile divides.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.layers import Attention, Dense, Experts, Linear
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.units import KIB, MIB
from runtimes.profiling.points import Point, Series

KernelsOf = Callable[[str, tuple[int, int]], tuple[str, ...]]
"""Kernels of a format for some output and input features."""

KV_BITS = 16
LAYERS_TIMED = {
    "cpu": {"decode": 2, "prefill": 1},
    "cuda": {"decode": 8, "prefill": 2},
}
"""Layers of the stage in which a layer is timed, among which its time is shared. What a step takes
beside them matters in decode alone, and more so where a GPU waits for its host between steps."""

TOKEN_BYTES = 8
"""A sampled token on its way back to the first stage."""


@dataclass(frozen=True)
class Grid:
    """Sizes at which everything is timed, each in growing order.

    Attributes:
        tokens: of matrix products.
        decode_batches, contexts: of attention of one new token per sequence.
        prompt_batches, prompts: of attention of whole prompts.
        layer_decodes, layer_prompts: sequences and context or prompt tokens of whole layers.
        rows: of the embedding and of the LM head, of which a step needs one for each sample.
        step_rows: of stage steps.
        message_bytes: of messages between stages.
        served_rounds: tokens of each sequence that a real pipeline serves; 0 for no such pipeline.
        served_dense: whether pipelines also serve as a device without fused kernels does.
    """

    tokens: tuple[int, ...]
    decode_batches: tuple[int, ...]
    contexts: tuple[int, ...]
    prompt_batches: tuple[int, ...]
    prompts: tuple[int, ...]
    layer_decodes: tuple[tuple[int, int], ...]
    layer_prompts: tuple[tuple[int, int], ...]
    rows: tuple[int, ...]
    step_rows: tuple[int, ...]
    message_bytes: tuple[int, ...]
    served_rounds: int = 0
    served_dense: bool = False


def half_powers(most: int) -> tuple[int, ...]:
    """Return 1, 2, 3, 4, 6, 8, 12, 16, ... up to a number."""
    powers = (1 << exponent for exponent in range(most.bit_length()))
    sizes = {size for power in powers for size in (power, power * 3 // 2)}
    return tuple(sorted(size for size in sizes if size <= most))


def powers(least: int, most: int, factor: int = 2) -> tuple[int, ...]:
    """Return a number and its multiples by powers of a factor, up to a number."""
    sizes = [least]
    while sizes[-1] * factor <= most:
        sizes.append(sizes[-1] * factor)
    return tuple(sizes)


FULL_GRID = Grid(
    tokens=half_powers(8192),
    decode_batches=(1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128),
    contexts=(16, 50, 64, 128, 200, 256, 500, 512, 777, 1024, 1500, 2048, 3000, 4096, 8192),
    prompt_batches=(1, 2, 3, 4, 6, 8, 12, 16, 32),
    prompts=(8, 16, 32, 50, 64, 100, 128, 200, 256, 384, 500, 512, 777, 1024, 1500, 2048, 4096),
    layer_decodes=tuple((b, s) for b in (1, 2, 4, 8, 16, 32, 64) for s in (64, 300, 1000)),
    layer_prompts=tuple((b, s) for b in (1, 2, 4, 8) for s in (16, 64, 128, 300, 512, 1000)),
    rows=half_powers(256),
    step_rows=(1, 2, 4, 8, 16, 32, 64, 128, 256),
    message_bytes=powers(256, 64 * MIB),
    served_rounds=50,
)

QUICK_GRID = Grid(
    tokens=(*half_powers(64), 96, 128, 192, 256, 384, 512, 1024, 2048),
    decode_batches=(1, 2, 4, 8, 16, 32),
    contexts=(16, 64, 150, 256, 500, 1000),
    prompt_batches=(1, 2, 4, 8),
    prompts=(16, 50, 64, 128, 200, 256, 500, 1000),
    layer_decodes=((1, 64), (1, 500), (2, 150), (4, 100), (8, 300), (16, 150)),
    layer_prompts=((1, 32), (1, 100), (2, 64), (4, 50), (2, 128), (1, 500), (4, 200), (8, 128)),
    rows=(1, 2, 3, 4, 6, 8, 12, 16, 32, 64),
    step_rows=(1, 4, 16, 64),
    message_bytes=powers(KIB, 4 * MIB, 4),
    served_rounds=16,
)


def met_by_all(spec: ModelSpec) -> list[Linear]:
    """Return the products of a model's layers that have a format and that every token meets."""
    linears = [linear for kind in spec.kinds for linear in kind.linears]
    return [linear for linear in linears if linear.is_formatted and linear.copies == 1]


def check_timed(spec: ModelSpec) -> None:
    """Check that all mixers of a model can be timed.

    Raises:
        InputError: some keep something else than keys and values.
    """
    for kind in spec.kinds:
        if kind.mixer is not None and not isinstance(kind.mixer, Attention):
            raise InputError(
                f"{spec.name}: has {type(kind.mixer).__name__} layers, which the torch runtime "
                "does not compute; they are planned by formulas and kernels measured by others"
            )


def gemm_series(
    spec: ModelSpec, formats: Iterable[str], kernels_of: KernelsOf, grid: Grid
) -> list[Series]:
    """Return the matrix products of a model's layers, a series for each format, kernel and shape.

    Args:
        spec: the model.
        formats: of weights.
        kernels_of: the kernels of a format for some output and input features.
        grid: sizes.
    """
    shapes = sorted({(linear.out_features, linear.in_features) for linear in met_by_all(spec)})
    return [
        tuple(Point("gemm", "any", name, spec.name, kernel, m=m, n=n, k=k) for m in grid.tokens)
        for name in formats
        for n, k in shapes
        for kernel in kernels_of(name, (n, k))
    ]


def head_gemm_series(
    spec: ModelSpec, format_name: str, kernels_of: KernelsOf, grid: Grid
) -> list[Series]:
    """Return the matrix product of a model's LM head, whose weights are not quantized."""
    n, k = spec.vocab_size, spec.hidden_size
    return [
        tuple(
            Point("gemm", "any", format_name, spec.name, kernel, m=m, n=n, k=k) for m in grid.rows
        )
        for kernel in kernels_of(format_name, (n, k))
    ]


def attention_series(spec: ModelSpec, grid: Grid) -> list[Series]:
    """Return the attention of layers in both phases, a series for each number of sequences."""
    mixers = dict.fromkeys(k.mixer for k in spec.kinds if isinstance(k.mixer, Attention))
    return [series for mixer in mixers for series in _of_mixer(spec, mixer, grid)]


def expert_series(spec: ModelSpec, formats: Iterable[str], grid: Grid) -> list[Series]:
    """Return the experts of a model's layers, a series for each format."""
    parts = dict.fromkeys(k.feed_forward for k in spec.kinds if isinstance(k.feed_forward, Experts))
    return [
        tuple(
            Point(
                "experts",
                "any",
                name,
                spec.name,
                m=m,
                n=part.inner_size,
                k=part.latent_size or spec.hidden_size,
                experts=part.count,
                chosen=part.chosen,
            )
            for m in grid.tokens
        )
        for part in parts
        for name in formats
    ]


def _of_mixer(spec: ModelSpec, mixer: Attention, grid: Grid) -> list[Series]:
    base = Point(
        "attention",
        model=spec.name,
        heads=mixer.heads,
        kv_heads=mixer.kv_heads,
        head_dim=mixer.key_dim,
        kv_bits=KV_BITS,
        window=mixer.window or 0,
    )
    series: list[Series] = []
    for phase, batches, lengths in (
        ("decode", grid.decode_batches, _fitting(grid.contexts, spec, spare=1)),
        ("prefill", grid.prompt_batches, _fitting(grid.prompts, spec)),
    ):
        for batch in batches:
            points = [replace(base, phase=phase, batch=batch, seq=length) for length in lengths]
            series.append(tuple(points))
    return series


def has_plain_layers(spec: ModelSpec) -> bool:
    """Return whether all layers of a model are alike, dense, and see all tokens before them."""
    kind = spec.kinds[0]
    sees_all = isinstance(kind.mixer, Attention) and kind.mixer.window is None
    return len(spec.kinds) == 1 and sees_all and isinstance(kind.feed_forward, Dense)


def layer_series(
    spec: ModelSpec, formats: Iterable[str], grid: Grid, device_type: str = "cpu"
) -> list[Series]:
    """Return whole layers of a model, a series for each format and phase.

    Args:
        spec: the model.
        formats: of its layers.
        grid: sizes.
        device_type: ``cpu`` or ``cuda``.

    Returns:
        None of a model whose layers are not all alike and dense: what whole layers take beside
        their kernels is learned from others.
    """
    if not has_plain_layers(spec):
        return []
    timed = LAYERS_TIMED[device_type]
    series: list[Series] = []
    for name in formats:
        for phase, sizes in (("decode", grid.layer_decodes), ("prefill", grid.layer_prompts)):
            base = Point("layer", phase, name, spec.name, layers=min(timed[phase], spec.layers))
            fitting = [(b, s) for b, s in sizes if s < spec.max_positions]
            points = [replace(base, batch=batch, seq=length) for batch, length in fitting]
            series.append(tuple(sorted(points, key=_work)))
    return series


def end_series(spec: ModelSpec, format_name: str, grid: Grid) -> list[Series]:
    """Return what the first, the last and every stage do beside their layers."""
    hidden, vocab = spec.hidden_size, spec.vocab_size
    embedding = Point("embedding", quant=format_name, model=spec.name, n=hidden, k=vocab)
    head = Point("head", quant=format_name, model=spec.name, n=vocab, k=hidden)
    step = Point("visit", model=spec.name, k=hidden)
    return [
        tuple(replace(embedding, m=m) for m in grid.tokens),
        tuple(replace(head, m=m) for m in grid.rows),
        tuple(replace(step, batch=batch) for batch in grid.step_rows),
    ]


def link_series(grid: Grid) -> Series:
    """Return the messages between two stages on one machine: hidden states, and a token back."""
    return tuple(Point("link", bytes=size) for size in (TOKEN_BYTES, *grid.message_bytes))


def _fitting(lengths: tuple[int, ...], spec: ModelSpec, spare: int = 0) -> tuple[int, ...]:
    """Return the lengths that a model's positions allow, at least the shortest."""
    fitting = tuple(length for length in lengths if length + spare <= spec.max_positions)
    return fitting or lengths[:1]


def _work(point: Point) -> tuple[int, int]:
    return point.tokens, point.batch * point.seq


def without_repeats(series: Iterable[Series]) -> list[Series]:
    """Return series without points that an earlier one has, whatever model it was for."""
    seen: set[Point] = set()
    kept: list[Series] = []
    for points in series:
        fresh = [point for point in points if _shared(point) not in seen]
        seen |= {_shared(point) for point in fresh}
        kept += [tuple(fresh)] if fresh else []
    return kept


def _shared(point: Point) -> Point:
    """Return the point without its model where the same work occurs in several models."""
    return replace(point, model="") if point.op in {"gemm", "attention"} else point

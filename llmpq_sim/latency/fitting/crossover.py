"""Kernel crossover: tokens from which a format is faster decoded first."""

import numpy as np

from llmpq_sim.core.formats import FORMATS
from llmpq_sim.latency.fitting.rows import Measurements, formats_of
from llmpq_sim.latency.work import BoolArray

FUSED, DENSE = "fused", "dense"
ALWAYS = 1

Curves = dict[tuple[float, float], dict[float, float]]
"""Logarithm of the time by tokens, of each shape that a kernel was timed on."""


def kernel_crossovers(gemms: Measurements) -> dict[str, int]:
    """Return by format the tokens from which its dense kernel is to be used.

    They minimise the sum of the logarithms of all timed products' times; between the two token
    counts around the best one it is where the mean logarithms, taken as linear in the logarithm of
    the tokens, cross. A format is absent whose fused kernel is the faster one throughout, or that
    has no dense kernel, or whose weights are held as they are multiplied.

    Args:
        gemms: timed matrix products; ``fused`` and ``dense`` ones are compared.
    """
    formats = formats_of(gemms)
    found = {}
    for name in dict.fromkeys(formats.tolist()):
        own = gemms.where(formats == name)
        fused, dense = _curves(own, FUSED), _curves(own, DENSE)
        if name == "" or not (fused or FORMATS[name].is_quantized):
            continue
        crossover = _crossover(fused, dense)
        if crossover is not None:
            found[name] = crossover
    return found


def used_rows(gemms: Measurements, crossovers: dict[str, int]) -> Measurements:
    """Return the products by the kernel that is used at their tokens."""
    by_format = dense_tokens(gemms, crossovers)
    from_tokens = np.asarray([by_format[name] for name in formats_of(gemms).tolist()])
    dense, fused = gemms.kernel == DENSE, gemms.kernel == FUSED
    return gemms.where(~(dense & (gemms.m < from_tokens)) & ~(fused & (gemms.m >= from_tokens)))


def dense_tokens(gemms: Measurements, crossovers: dict[str, int]) -> dict[str, float]:
    """Return for each format in the rows the tokens from which its dense kernel is used.

    Without a crossover that is never, or always where there is no fused kernel.
    """
    formats = formats_of(gemms)
    with_fused = set(formats[gemms.kernel == FUSED].tolist())
    return {
        name: float(crossovers.get(name, np.inf if name in with_fused else ALWAYS))
        for name in dict.fromkeys(formats.tolist())
    }


def with_dense_kernels_only(gemms: Measurements) -> BoolArray:
    """Return which products a device without fused kernels could run."""
    return np.asarray(gemms.kernel != FUSED)


def _curves(rows: Measurements, kernel: str) -> Curves:
    curves: Curves = {}
    own = rows.where(rows.kernel == kernel)
    for m, n, k, time_us in zip(
        own.m.tolist(), own.n.tolist(), own.k.tolist(), own.latency_us.tolist(), strict=True
    ):
        curves.setdefault((n, k), {})[m] = float(np.log(time_us))
    return curves


def _crossover(fused: Curves, dense: Curves) -> int | None:
    if not dense:
        return None
    if not fused:
        return ALWAYS
    tokens = sorted({m for curves in (fused, dense) for curve in curves.values() for m in curve})
    candidates = [*tokens, np.inf]
    best = min(candidates, key=lambda crossover: (_total(fused, dense, crossover), crossover))
    if best == np.inf:
        return None
    position = tokens.index(best)
    return ALWAYS if position == 0 else _crossing(fused, dense, tokens[position - 1], best)


def _total(fused: Curves, dense: Curves, crossover: float) -> float:
    """Return the sum of logarithms; infinite where the kernel used was not timed but the other."""
    total = 0.0
    for shape in {*fused, *dense}:
        slow, fast = fused.get(shape, {}), dense.get(shape, {})
        for m in {*slow, *fast}:
            total += (slow if m < crossover else fast).get(m, np.inf)
    return total


def _crossing(fused: Curves, dense: Curves, below: float, above: float) -> int:
    """Return the tokens above ``below`` and up to ``above`` from which dense is the faster one."""
    shapes = [
        shape
        for shape in fused
        if all({below, above} <= set(curves.get(shape, {})) for curves in (fused, dense))
    ]
    if not shapes:
        return int(above)
    lost, gained = (
        float(np.mean([dense[shape][m] - fused[shape][m] for shape in shapes]))
        for m in (below, above)
    )
    if not gained < lost:
        return int(above)
    share = min(max(lost / (lost - gained), 0.0), 1.0)
    crossing = np.ceil(below * (above / below) ** share)
    return int(np.clip(crossing, below + 1, above))

"""Times and bytes of layers as parts that loads of a device add up: of formats, of kinds, the rest.

A load says how many layers a device holds in each format and of each kind, not which kind has which
format: of those there would be too many. What a layer costs is split so that the sum over a load is
never more than the truth. The *main* kinds, whose bytes differ by nearly the same in every format
(such as layers with and without a window), are counted by format:

  cost of kind k in format f  =  a[f] + b[k] + rest[k, f],   rest >= 0.

Layers of other kinds are counted by kind alone, a[f] left out and b[k] their cheapest format's. The
rest is paid where layers choose their formats.
"""

from dataclasses import dataclass

import numpy as np

from llmpq_sim.search.bound.problem import FloatArray, Problem
from llmpq_sim.search.bound.schedule_terms import EMBEDDING, TERMS

ALIKE = 0.25
"""Of what formats save of a main kind's bytes, the part by which those saved of another may differ
if it is to be a main kind too."""

BYTES = "bytes"


@dataclass(frozen=True)
class Parts:
    """The parts of every term, and of the bytes, by their names.

    Attributes:
        main: whether a kind is counted by format. Shape: (kinds,).
        of_formats: shapes (places, formats).
        of_kinds: shapes (places, kinds).
        rest: shapes (kinds, places, formats).
    """

    main: FloatArray
    of_formats: dict[str, FloatArray]
    of_kinds: dict[str, FloatArray]
    rest: dict[str, FloatArray]


def parts_of(problem: Problem) -> Parts:
    """Return the parts of a problem of one wave."""
    places, kinds = len(problem.places), len(problem.block_bytes) + EMBEDDING
    allowed = np.zeros((kinds, places, len(problem.formats)), dtype=bool)
    for item in problem.items:
        if item.is_layer:
            allowed[item.block] |= item.allowed
    costs = {name: getattr(problem.waves[0], name)[:EMBEDDING] for name in TERMS}
    costs[BYTES] = np.repeat(problem.block_bytes[:EMBEDDING, None], places, axis=1)
    usual = int(np.bincount(problem.kind_of_layer).argmax())
    main = _main_kinds(problem.block_bytes[:EMBEDDING], usual)
    parts = Parts(main.astype(float), {}, {}, {})
    for name, cost in costs.items():
        beyond = cost - main[:, None, None] * cost[usual]
        least = np.where(allowed, beyond, np.inf).min(axis=2)
        least[np.isinf(least)] = 0.0  # none may be there
        parts.of_formats[name] = cost[usual]
        parts.of_kinds[name] = least.T
        rest = beyond - least[:, :, None]
        parts.rest[name] = np.where(allowed, np.maximum(rest, 0.0), 0.0)
    return parts


def _main_kinds(layer_bytes: FloatArray, usual: int) -> FloatArray:
    """Return the kinds that formats save about as many bytes of as of the usual one."""
    saved = layer_bytes - layer_bytes.min(axis=1, keepdims=True)
    off = np.abs(saved - saved[usual]).max(axis=1)
    return np.asarray(off <= ALIKE * saved[usual].max())

"""Assignments of formats to layers: drawn at random, and best under a table within a memory."""

from collections.abc import Mapping
from itertools import pairwise

import numpy as np

from tests.evidence.whole_model import CHOICES, QUANTIZED, UNQUANTIZED, Assignment, Table


def random_assignments(layers: int, count: int, rng: np.random.Generator) -> list[Assignment]:
    """Return assignments whose losses spread over decades: each has its own odds of formats."""
    found: list[Assignment] = []
    while len(found) < count:
        odds = rng.dirichlet((0.5,) * len(CHOICES))
        assignment = tuple(str(name) for name in rng.choice(CHOICES, layers, p=odds))
        if set(assignment) != {UNQUANTIZED}:
            found.append(assignment)
    return found


def random_plan(
    layers: int, layer_bytes: Mapping[str, int], memory_bytes: int, rng: np.random.Generator
) -> Assignment:
    """Return a plan that uses up a memory: layers at random rise by a format while they can."""
    rising = CHOICES[::-1]
    levels = [0] * layers
    free = memory_bytes - layer_bytes[rising[0]] * layers
    steps = [layer_bytes[high] - layer_bytes[low] for low, high in pairwise(rising)]
    while True:
        able = [n for n, level in enumerate(levels) if level < len(steps) and steps[level] <= free]
        if not able:
            return tuple(rising[level] for level in levels)
        layer = int(rng.choice(able))
        free -= steps[levels[layer]]
        levels[layer] += 1


def best_plan(table: Table, layer_bytes: Mapping[str, int], memory_bytes: int) -> Assignment:
    """Return the assignment of the least sum of losses within a memory: exact, layer by layer."""
    best: dict[int, tuple[float, Assignment]] = {0: (0.0, ())}
    for losses in zip(*(table[name] for name in QUANTIZED), strict=True):
        longer: dict[int, tuple[float, Assignment]] = {}
        for used, (loss, names) in best.items():
            for name, own_loss in zip(CHOICES, (0.0, *losses), strict=True):
                candidate = (loss + own_loss, (*names, name))
                held = used + layer_bytes[name]
                if held <= memory_bytes and (held not in longer or candidate < longer[held]):
                    longer[held] = candidate
        best = longer
    return min(best.values())[1]

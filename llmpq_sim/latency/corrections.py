"""Corrections of base times by trees, and how files hold them."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, Rule, is_finite, kind_of
from llmpq_sim.core.records import Codec, to_dict
from llmpq_sim.latency.trees import LEAF_UNIT, Trees
from llmpq_sim.latency.work import BoolArray, FloatArray

NUMBER = Rule("a number", is_finite, float)

LARGEST_CORRECTION = 5.0
"""Bound of a correction's logarithm (a factor of 148): a damaged file cannot give infinity."""


@dataclass(frozen=True)
class Correction:
    """What trees learned about the logarithm of measured over base time, and where.

    Attributes:
        trees: the ensemble.
        least, most: the box of sizes that was profiled; beyond it the base is corrected as at
            the nearest point of the box, so that times follow the base there.
    """

    trees: Trees
    least: tuple[float, ...]
    most: tuple[float, ...]

    def clamp(self, sizes: tuple[FloatArray, ...]) -> list[FloatArray]:
        """Return the sizes moved into the box."""
        bounds = zip(sizes, self.least, self.most, strict=True)
        return [np.clip(size, least, most) for size, least, most in bounds]

    def beyond(self, sizes: tuple[FloatArray, ...]) -> BoolArray:
        """Return where the sizes lie outside the box."""
        moved = zip(sizes, self.clamp(sizes), strict=True)
        outside: BoolArray = np.any([size != clamped for size, clamped in moved], axis=0)
        return outside

    def factor(self, features: FloatArray) -> FloatArray:
        """Return the factor by which the base time is off; ``features`` is (..., features)."""
        rows = features.reshape(-1, features.shape[-1])
        log_factor = self.trees.predict(rows).reshape(features.shape[:-1])
        return np.exp(np.clip(log_factor, -LARGEST_CORRECTION, LARGEST_CORRECTION))


def correction_codec(sizes: tuple[str, ...], features: int) -> Codec:
    """Return the codec of corrections over these sizes, by so many features.

    Its keys stand in the mapping of the model that is corrected.
    """

    def read(fields: Fields, key: str) -> Correction | None:
        if not fields.has(key):
            return None
        with fields.fields("profiled") as profiled:
            bounds = [_bounds(profiled, size) for size in sizes]
        least, most = zip(*bounds, strict=True)
        return Correction(_trees(fields.fields(key), features), least, most)

    def write(correction: Correction | None) -> dict[str, Any]:
        if correction is None:
            return {}
        bounds = zip(sizes, correction.least, correction.most, strict=True)
        profiled = {size: [least, most] for size, least, most in bounds}
        return {"profiled": profiled, "correction": to_dict(correction.trees)}

    return Codec(read, write)


def _bounds(profiled: Fields, size: str) -> tuple[float, float]:
    numbers = profiled.numbers(size)
    if len(numbers) != 2 or not 0 < numbers[0] <= numbers[1]:
        raise InputError(
            f"{profiled.where}.{size}: expected two positive numbers, the lower first, "
            f"got {list(numbers)}"
        )
    return numbers[0], numbers[1]


def _trees(fields: Fields, features: int) -> Trees:
    with fields:
        trees = Trees(
            start=fields.checked("start", NUMBER),
            threshold_features=_indices(fields, "threshold_features", features),
            threshold_values=fields.numbers("threshold_values"),
            trees=fields.texts("trees"),
            leaf_unit=fields.number("leaf_unit", LEAF_UNIT),
        )
    questions = len(trees.threshold_values)
    if len(trees.threshold_features) != questions:
        raise InputError(
            f"{fields.where}.threshold_features: expected {questions} numbers, one for each of "
            f"threshold_values, got {len(trees.threshold_features)}"
        )
    try:
        trees.check()
    except ValueError as error:
        raise InputError(f"{fields.where}.{error}") from error
    return trees


def _indices(fields: Fields, name: str, below: int) -> tuple[int, ...]:
    numbers = fields.numbers(name)
    for number in numbers:
        if number not in range(below):
            raise InputError(
                f"{fields.where}.{name}: expected whole numbers from 0 to {below - 1}, "
                f"got {kind_of(number)}"
            )
    return tuple(int(number) for number in numbers)

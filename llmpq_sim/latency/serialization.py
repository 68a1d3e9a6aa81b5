"""Exact serialization of the models of a profile."""

from itertools import pairwise
from typing import Any

from llmpq_sim.core.cluster import Link
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, is_finite, kind_of
from llmpq_sim.latency.models import (
    AttentionModel,
    Correction,
    Factors,
    GemmModel,
    Overhead,
    Roofline,
)
from llmpq_sim.latency.trees import Trees
from llmpq_sim.latency.work import (
    ATTENTION_FEATURES,
    ATTENTION_TERMS,
    GEMM_FEATURES,
    AttentionSizes,
    GemmSizes,
)

GEMM_SIZES = GemmSizes._fields
ATTENTION_SIZES = AttentionSizes._fields


def gemm_to_content(model: GemmModel) -> dict[str, Any]:
    """Return the mapping that ``gemm_from_fields`` reads."""
    return {
        "weight_bits": model.weight_bits,
        "fixed_s": model.base.fixed_s,
        "flops_per_s": model.base.flops_per_s,
        "bytes_per_s": model.base.bytes_per_s,
        "multiprocessors": model.multiprocessors,
    } | _correction_to_content(model.correction, GEMM_SIZES)


def gemm_from_fields(fields: Fields) -> GemmModel:
    """Return the model of a matrix product that a mapping describes.

    Raises:
        InputError: it describes none.
    """
    with fields:
        return GemmModel(
            weight_bits=fields.number("weight_bits"),
            base=Roofline(
                fixed_s=fields.number("fixed_s", positive=False),
                flops_per_s=fields.number("flops_per_s"),
                bytes_per_s=fields.number("bytes_per_s"),
            ),
            correction=_correction(fields, GEMM_SIZES, len(GEMM_FEATURES)),
            multiprocessors=fields.integer("multiprocessors"),
        )


def attention_to_content(model: AttentionModel) -> dict[str, Any]:
    """Return the mapping that ``attention_from_fields`` reads."""
    return {
        "seconds": dict(zip(ATTENTION_TERMS, model.seconds, strict=True)),
        "multiprocessors": model.multiprocessors,
    } | _correction_to_content(model.correction, ATTENTION_SIZES)


def attention_from_fields(fields: Fields, phase: str) -> AttentionModel:
    """Return the attention model of a phase that a mapping describes.

    Raises:
        InputError: it describes none.
    """
    with fields, fields.fields("seconds") as seconds:
        return AttentionModel(
            phase=phase,
            seconds=tuple(seconds.number(term, positive=False) for term in ATTENTION_TERMS),
            correction=_correction(fields, ATTENTION_SIZES, len(ATTENTION_FEATURES)),
            multiprocessors=fields.integer("multiprocessors"),
        )


def overhead_to_content(overhead: Overhead) -> dict[str, float]:
    """Return the mapping that ``overhead_from_fields`` reads."""
    return {"fixed_s": overhead.fixed_s, "byte_s": overhead.byte_s}


def overhead_from_fields(fields: Fields) -> Overhead:
    """Return the overhead that a mapping describes.

    Raises:
        InputError: it describes none.
    """
    with fields:
        return Overhead(
            fixed_s=fields.number("fixed_s", positive=False),
            byte_s=fields.number("byte_s", positive=False),
        )


def link_to_content(link: Link) -> dict[str, float]:
    """Return the mapping that ``link_from_fields`` reads."""
    return {"latency_s": link.latency_s, "bytes_per_s": link.bytes_per_s}


def link_from_fields(fields: Fields) -> Link:
    """Return the link that a mapping describes, in SI units.

    Raises:
        InputError: it describes none.
    """
    with fields:
        return Link(
            latency_s=fields.number("latency_s", positive=False),
            bytes_per_s=fields.number("bytes_per_s"),
        )


def factors_to_content(factors: Factors) -> list[dict[str, float]]:
    """Return the list that ``factors_from_fields`` reads."""
    return [{"tokens": tokens, "factor": factor} for tokens, factor in factors]


def factors_from_fields(fields: Fields, name: str) -> Factors:
    """Return the factors that a list describes, at growing numbers of tokens.

    Raises:
        InputError: it describes none.
    """
    factors = []
    for part in fields.each(name):
        with part:
            factors.append((part.number("tokens"), part.number("factor")))
    tokens = [count for count, _ in factors]
    if not factors or any(after <= before for before, after in pairwise(tokens)):
        raise InputError(f"{fields.where}.{name}: expected growing tokens, got {tokens}")
    return tuple(factors)


def _correction_to_content(correction: Correction | None, sizes: tuple[str, ...]) -> dict[str, Any]:
    if correction is None:
        return {}
    bounds = zip(sizes, correction.least, correction.most, strict=True)
    trees = correction.trees
    return {
        "profiled": {size: [least, most] for size, least, most in bounds},
        "correction": {
            "start": trees.start,
            "threshold_features": list(trees.threshold_features),
            "threshold_values": list(trees.threshold_values),
            "trees": list(trees.trees),
        },
    }


def _correction(fields: Fields, sizes: tuple[str, ...], features: int) -> Correction | None:
    if not fields.has("correction"):
        return None
    with fields.fields("profiled") as profiled:
        bounds = [_bounds(profiled, size) for size in sizes]
    least, most = zip(*bounds, strict=True)
    return Correction(_trees(fields.fields("correction"), features), least, most)


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
            start=_finite(fields, "start"),
            threshold_features=_indices(fields, "threshold_features", features),
            threshold_values=fields.numbers("threshold_values"),
            trees=fields.texts("trees"),
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


def _finite(fields: Fields, name: str) -> float:
    value = fields.value(name)
    if not is_finite(value):
        raise InputError(f"{fields.where}.{name}: expected a number, got {kind_of(value)}")
    return float(value)

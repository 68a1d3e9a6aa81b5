"""In-pipeline calibration: steps of a real pipeline against the sum of their parts.

A layer there takes some factor times what it takes alone, by its format and the tokens computed at
once. What steps take besides belongs to every step where both ends of a model have it in common,
else to the end.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace

import numpy as np

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.units import US
from llmpq_sim.latency.costs import embeddings_s, heads_s, mixer_s, products_s
from llmpq_sim.latency.fitting.kernels import significant
from llmpq_sim.latency.fitting.rows import Measurements, TextArray, formats_of
from llmpq_sim.latency.models import Factors, Overhead
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.latency.work import BoolArray, FloatArray

PHASES = ("decode", "prefill")
FIRST, LAST = "first", "last"
ALL_DENSE = "-dense"
"""Follows the end where all weights were decoded before they were multiplied."""

LEAST_FACTOR, LARGEST_FACTOR = 0.5, 2.0
"""Within these a layer in a pipeline is the layer that was timed alone."""

Found = dict[str, dict[float, float]]
"""Factors of layers, by format and tokens."""


@dataclass(frozen=True)
class PipelineSteps:
    """Steps of a real pipeline beside what a profile says of their parts.

    Attributes:
        formats: weight format of each.
        tokens: computed at once.
        layers: of the stage.
        is_first: whether the stage is the first, else it is the last.
        layers_s: what the profile says of the layers without their attention.
        others_s: of attention and of the end of the model.
        time_s: measured.
    """

    formats: TextArray
    tokens: FloatArray
    layers: FloatArray
    is_first: BoolArray
    layers_s: FloatArray
    others_s: FloatArray
    time_s: FloatArray

    def where(self, mask: BoolArray) -> "PipelineSteps":
        """Return the steps that a mask picks."""
        return PipelineSteps(*(getattr(self, column.name)[mask] for column in fields(self)))


def steps_of_kernels(rows: Measurements, *, all_dense: bool) -> Measurements:
    """Return the steps of one kernel set, their column ``kernel`` naming the end."""
    ends = [str(kernel) for kernel in rows.kernel]
    of_set = np.array([end.endswith(ALL_DENSE) == all_dense for end in ends], np.bool_)
    named = np.array([end.removesuffix(ALL_DENSE) for end in ends], np.str_)
    return replace(rows, kernel=named).where(of_set)


def with_pipeline_calibration(
    profile: DeviceProfile,
    steps: Measurements,
    models: Mapping[str, ModelSpec],
    timed_with: DeviceProfile,
) -> DeviceProfile:
    """Return a profile in which steps take as long as in a real pipeline.

    Args:
        profile: to be changed: its cost of a step, of both ends of a model and, where it is
            ``timed_with``, of layers.
        steps: those of the first and of the last stage.
        models: the models that rows name.
        timed_with: the profile of the kernels that the rows were timed with.

    Raises:
        InputError: a row names a model that is not known, or no end of a model.
    """
    _check(steps, models)
    if "decode" not in steps.phase:
        return profile
    by_phase = {
        phase: _steps(steps.where(steps.phase == phase), models, timed_with) for phase in PHASES
    }
    decode, first_s, last_s = decode_fit(by_phase["decode"])
    prefill = prefill_factors(by_phase["prefill"], first_s, last_s)
    alone = {name: {_tokens(by_phase["decode"], name): 1.0} for name in _names(by_phase["decode"])}
    common_s = min(first_s, last_s)
    return replace(
        profile,
        step_overhead_s=significant(common_s),
        embedding_overhead=_raised(profile.embedding_overhead, first_s - common_s),
        head_overhead=_raised(profile.head_overhead, last_s - common_s),
        pipeline_factors=_curves(alone, decode, prefill) if profile is timed_with else {},
    )


def decode_fit(steps: PipelineSteps) -> tuple[Found, float, float]:
    """Return factors of layers, and what steps of the first and the last stage take besides.

    They have the least squared error relative to the measured times. In a format that was timed
    at one depth alone nothing tells layers from the rest of a step: it counts where there is no
    other, and its layers then take what they take alone.
    """
    from scipy.optimize import lsq_linear

    fitted = [name for name in _names(steps) if len(_depths(steps, name)) > 1]
    if fitted:
        steps = steps.where(np.isin(steps.formats, fitted))
    of_format = [steps.layers_s * (steps.formats == name) for name in fitted]
    columns = np.stack([*of_format, steps.is_first, ~steps.is_first], axis=1)
    rest_s = steps.time_s - steps.others_s - (0.0 if fitted else steps.layers_s)
    bounds = np.array([(LEAST_FACTOR, LARGEST_FACTOR)] * len(fitted) + [(0.0, np.inf)] * 2)
    scale = np.array([1.0] * len(fitted) + [steps.time_s.mean()] * 2)
    matrix = columns * scale / steps.time_s[:, np.newaxis]
    found = (scale * lsq_linear(matrix, rest_s / steps.time_s, bounds.T).x).tolist()
    factors = {
        name: {_tokens(steps, name): factor}
        for name, factor in zip(fitted, found[:-2], strict=True)
    }
    return factors, found[-2], found[-1]


def prefill_factors(steps: PipelineSteps, first_s: float, last_s: float) -> Found:
    """Return factors of layers where steps of both ends take so long besides."""
    besides_s = np.where(steps.is_first, first_s, last_s)
    layers = steps.layers_s / steps.time_s
    rest = (steps.time_s - steps.others_s - besides_s) / steps.time_s
    factors: Found = {}
    for name in _names(steps):
        own = steps.formats == name
        factor = layers[own] @ rest[own] / (layers[own] @ layers[own])
        bounded = float(np.clip(factor, LEAST_FACTOR, LARGEST_FACTOR))
        factors[name] = {_tokens(steps, name): bounded}
    return factors


def _check(steps: Measurements, models: Mapping[str, ModelSpec]) -> None:
    for found, known, what in (
        (steps.model, tuple(models), "the name of a model"),
        (steps.kernel, (FIRST, LAST), f"{FIRST} or {LAST}, the end of a model, as kernel"),
        (steps.phase, PHASES, f"{' or '.join(PHASES)} as phase"),
    ):
        for name in found.tolist():
            if name not in known:
                raise InputError(f"rows with op=served: expected {what}, got {name!r}")


def _names(steps: PipelineSteps) -> list[str]:
    return list(dict.fromkeys(steps.formats.tolist()))


def _tokens(steps: PipelineSteps, name: str) -> float:
    """Return the tokens computed at once in a format's steps, which are all of one size."""
    return float(steps.tokens[steps.formats == name][0])


def _depths(steps: PipelineSteps, name: str) -> set[float]:
    return set(steps.layers[steps.is_first & (steps.formats == name)].tolist())


def _curves(*found: Found) -> dict[str, Factors]:
    """Return each format's factors by growing tokens; of those for the same the last counts."""
    of_name: Found = {}
    for part in found:
        for name, factors in part.items():
            of_name[name] = of_name.get(name, {}) | factors
    return {
        name: tuple((tokens, significant(factor)) for tokens, factor in sorted(factors.items()))
        for name, factors in of_name.items()
    }


def _steps(
    rows: Measurements, models: Mapping[str, ModelSpec], profile: DeviceProfile
) -> PipelineSteps:
    """Return rows of one phase beside what a profile says of their parts."""
    parts = [_parts_s(rows, number, models, profile) for number in range(len(rows))]
    layers_s, others_s = np.array(parts, np.float64).reshape(-1, 2).T
    is_prefill = rows.phase == "prefill"
    return PipelineSteps(
        formats=formats_of(rows),
        tokens=np.where(is_prefill, rows.batch * rows.seq, rows.batch),
        layers=rows.layers,
        is_first=rows.kernel == FIRST,
        layers_s=layers_s,
        others_s=others_s,
        time_s=rows.latency_us * US,
    )


def _parts_s(
    rows: Measurements, number: int, models: Mapping[str, ModelSpec], profile: DeviceProfile
) -> tuple[float, float]:
    """Return what a profile says of a step: its layers without attention, and the rest."""
    name, end = str(rows.model[number]), str(rows.kernel[number])
    spec, layers = models[name], float(rows.layers[number])
    batch, context = rows.batch[[number]], rows.seq[[number]]
    is_prefill = str(rows.phase[number]) == "prefill"
    tokens = batch * context if is_prefill else batch
    layer = spec.only_kind
    attention_s = mixer_s(layer, profile, "prefill" if is_prefill else "decode", batch, context)
    layer_s = products_s(layer, profile, str(formats_of(rows)[number]), tokens)
    is_first = end == FIRST
    end_s = embeddings_s(spec, profile, tokens) if is_first else heads_s(spec, profile, batch)
    return layers * float(layer_s[0]), layers * float(attention_s[0]) + float(end_s[0])


def _raised(overhead: Overhead | None, by_s: float) -> Overhead | None:
    """Return an overhead with so much more fixed cost."""
    if by_s <= 0:
        return overhead
    known = overhead or Overhead(0.0, 0.0)
    return Overhead(significant(known.fixed_s + by_s), known.byte_s)

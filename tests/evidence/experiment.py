"""Experiment of docs/log.md on one trained model: sums, indicators, plans, cost.

Is a plan's loss the sum of its layers'? Do cheap indicators rank layers as measured loss does? Are
plans found under an indicator as good as under measured loss, and better than at random?
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import TypeVar

import numpy as np
from scipy.stats import spearmanr

from runtimes.torch_pipeline.weights.formats.stored_format import RTN
from runtimes.torch_pipeline.weights.quantizers import QUANTIZERS
from tests.evidence.plain_indicators import (
    INDICATORS,
    indicator_table,
    observed_inputs,
)
from tests.evidence.plans import best_plan, random_assignments, random_plan
from tests.evidence.whole_model import (
    QUANTIZED,
    UNQUANTIZED,
    Assignment,
    Table,
    Text,
    WholeModel,
    amplified,
    load_whole_model,
    loss_table,
    predicted,
    text_of,
)
from tests.trained_model import HELD_OUT, encoded, windows_of

Result = TypeVar("Result")

MEAN_BITS = (3.75, 4.0, 4.5, 5.0, 6.0, 8.0)
"""Memory budgets of plans, in stored bits per weight."""

SMALL_LOSS_NATS = 0.1
"""Up to here sums are promised to hold."""


@dataclass(frozen=True)
class Scale:
    """How much is measured.

    Attributes:
        windows: of each of two texts.
        assignments: drawn at random, formats mixed.
        random_plans: at each memory.
        amplifications: what weight errors are multiplied by. 1 is the runtime's own; more harms
            these models more than any of its formats does, and shows where sums cease to hold.
    """

    windows: int = 16
    assignments: int = 50
    random_plans: int = 20
    amplifications: tuple[int, ...] = (1, 4, 8)


@dataclass(frozen=True)
class Sum:
    """What the sum over layers says of an assignment, and what it really loses, nats per token.

    Attributes:
        predicted: sum of what its layers lose alone.
        measured: on the same windows.
        elsewhere: on other windows, which no table has seen.
        amplification: of weight errors.
    """

    predicted: float
    measured: float
    elsewhere: float
    amplification: int

    @property
    def error(self) -> float:
        """Return how far the sum is off, relative to the measured loss."""
        return abs(self.predicted - self.measured) / self.measured


@dataclass(frozen=True)
class Plan:
    """An assignment and what it loses on windows that no table has seen, nats per token."""

    assignment: Assignment
    loss: float


Plans = dict[float, dict[str, list[Plan]]]
"""By stored bits per weight, and by how they were found: one, or several random ones."""


@dataclass(frozen=True)
class Evidence:
    """What one trained model showed.

    Attributes:
        reference_nats: cross-entropy of the 16-bit model.
        losses: measured, of each layer alone.
        indicators: tables by name.
        sums: of the same random assignments at each amplification.
        plans: of equal memory.
        seconds: of a processor, by method, that its table took, quantizing left out.
        quantizing_s: what quantizing and decoding everything took, by quantizer.
        uniform: measured loss of all layers in one format, by quantizer and format.
    """

    reference_nats: float
    losses: Table
    indicators: dict[str, Table]
    sums: tuple[Sum, ...]
    plans: Plans
    seconds: dict[str, float]
    quantizing_s: dict[str, float]
    uniform: dict[str, dict[str, float]]

    def sums_between(self, low: float, high: float) -> list[Sum]:
        """Return the sums of assignments whose measured loss is in a range of nats."""
        return [each for each in self.sums if low <= each.measured < high]

    def tables(self) -> dict[str, Table]:
        """Return all tables by the method that made them, measured losses first."""
        return {"kl": self.losses, **self.indicators}


def experiment(folder: Path, scale: Scale, seed: int = 0) -> Evidence:
    """Return what a model folder with a held-out text shows."""
    rng = np.random.default_rng(seed)
    models = {
        name: load_whole_model(folder, dict.fromkeys(known, name))
        for name, known in QUANTIZERS.items()
    }
    whole = models[RTN]
    tokens = encoded((folder / HELD_OUT).read_text(encoding="utf-8"))
    middle = len(tokens) // 2  # tables see the first half, plans are judged on the second
    text = text_of(whole, windows_of(tokens[:middle], scale.windows))
    unseen = text_of(whole, windows_of(tokens[middle:], scale.windows))
    losses, kl_s = timed(partial(loss_table, whole, text))
    indicators, indicators_s = timed_indicators(whole, text)
    assignments = random_assignments(len(whole.layers), scale.assignments, rng)
    return Evidence(
        reference_nats=text.cross_entropy(text.reference),
        losses=losses,
        indicators=indicators,
        sums=tuple(measured_sums(whole, text, unseen, assignments, scale.amplifications)),
        plans=compared_plans(whole, {"kl": losses, **indicators}, unseen, scale.random_plans, rng),
        seconds={"kl": kl_s, **indicators_s},
        quantizing_s={name: each.quantizing_s for name, each in models.items()},
        uniform={
            name: {each: text.divergence(model, model.uniform(each)) for each in QUANTIZED}
            for name, model in models.items()
        },
    )


def timed_indicators(whole: WholeModel, text: Text) -> tuple[dict[str, Table], dict[str, float]]:
    """Return the tables of all indicators, and the processor seconds of each with its pass."""
    inputs, pass_s = timed(partial(observed_inputs, whole, text.windows))
    found = {name: timed(partial(indicator_table, whole, inputs, name)) for name in INDICATORS}
    tables = {name: table for name, (table, _) in found.items()}
    return tables, {name: pass_s + own_s for name, (_, own_s) in found.items()}


def measured_sums(
    whole: WholeModel,
    text: Text,
    unseen: Text,
    assignments: Sequence[Assignment],
    amplifications: Sequence[int],
) -> Iterator[Sum]:
    """Yield what sums say of assignments, and what these really lose, at each amplification."""
    for amplification in amplifications:
        model = amplified(whole, amplification)
        losses = loss_table(model, text)
        for each in assignments:
            measured = text.divergence(model, each)
            elsewhere = unseen.divergence(model, each)
            yield Sum(predicted(losses, each), measured, elsewhere, amplification)


def compared_plans(
    whole: WholeModel,
    tables: Mapping[str, Table],
    unseen: Text,
    random_plans: int,
    rng: np.random.Generator,
) -> Plans:
    """Return plans of equal memory.

    ``random``: formats rise at random until the memory is used up. ``shuffled``: the plan of the
    measured losses with its layers exchanged, so that only the order of the layers is lost.
    """
    layers, layer_bytes = len(whole.layers), whole.layer_bytes()
    several = range(random_plans)
    compared = {}
    for bits in MEAN_BITS:
        memory_bytes = int(bits / 16 * layer_bytes[UNQUANTIZED] * layers)
        plans = {n: [best_plan(table, layer_bytes, memory_bytes)] for n, table in tables.items()}
        plans["random"] = [random_plan(layers, layer_bytes, memory_bytes, rng) for _ in several]
        plans["shuffled"] = [tuple(rng.permutation(plans["kl"][0]).tolist()) for _ in several]
        compared[bits] = {
            name: [Plan(each, unseen.divergence(whole, each)) for each in found]
            for name, found in plans.items()
        }
    return compared


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float:
    """Return Spearman's correlation of two lists."""
    return float(spearmanr(one, other).statistic)


def all_losses(table: Table) -> list[float]:
    """Return a table's numbers in one list, by format and then by layer."""
    return [loss for name in QUANTIZED for loss in table[name]]


def same_memory_correlation(evidence: Evidence, table: Table) -> float:
    """Return how a table ranks random plans of one memory, as a mean over memories."""
    correlations = []
    for plans in evidence.plans.values():
        losses = [plan.loss for plan in plans["random"]]
        sums = [predicted(table, plan.assignment) for plan in plans["random"]]
        correlations.append(rank_correlation(sums, losses))
    return mean(correlations)


def median_loss(plans: Sequence[Plan]) -> float:
    """Return the median loss of plans, nats per token."""
    return median(plan.loss for plan in plans)


def timed(work: Callable[[], Result]) -> tuple[Result, float]:
    """Return what some work returns, and the processor seconds that it took."""
    start = time.process_time()
    result = work()
    return result, time.process_time() - start

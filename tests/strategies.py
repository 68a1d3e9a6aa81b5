"""Tiny tasks for the laws of the search: every plan of each can be written down."""

import math
from dataclasses import dataclass, replace
from functools import cached_property

from hypothesis import strategies as st

from llmpq_sim.core.cluster import Device, Link
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.layers import Attention, Dense, Experts, LayerKind, Linear, Recurrent
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.quality.table import QualityTable, nominal_quality
from llmpq_sim.search.bound.feasibility import task_grid
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.scoring import fits, keeps_budget
from llmpq_sim.simulator.static.simulate import simulate_static
from tests.builders import (
    every_placement,
    every_plan,
    plan_at,
    tiny_device,
    tiny_model,
    tiny_scenario,
    tiny_task,
)

FORMAT_SETS = (("int4", "fp16"), ("int3", "int4"), ("int4", "int8"), ("int4", "int8", "fp16"))

SIZES = ((4, 2, 2), (3, 3, 2), (3, 2, 3), (4, 1, 3), (2, 3, 3))
"""Layers, devices and formats, so that there are at most some hundred plans a micro-batching."""

KINDS = (
    LayerKind(256, Attention(4, 4, 64, 64, window=8), Dense(1024, is_gated=False), 0, 0),
    LayerKind(256, Attention(4, 1, 64, 64), Experts(4, 2, 512), 0, 0),
    LayerKind(
        256,
        Recurrent(
            "gated-delta",
            (Linear("in", 768, 256), Linear("out", 256, 256)),
            4,
            64,
            64,
            16384,
            4,
            0,
            0,
        ),
        Dense(512),
        0,
        0,
    ),
    LayerKind(256, None, Dense(256, is_gated=False), 0, 0),
)
"""Kinds of layer beside the plain one: with a window, of experts, recurrent, without a mixer."""

exponents = st.integers(0, 30).map(lambda tenth: tenth / 10.0)


def tenfold(low: float) -> st.SearchStrategy[float]:
    """Return numbers from ``low`` to 1000 times as much, evenly on a logarithmic scale."""
    return exponents.map(lambda exponent: float(low * 10.0**exponent))


rooms_mib = st.sampled_from([64.0, 7.0, 5.0, 3.5, 2.5, 1.5])


@st.composite
def devices(
    draw: st.DrawFn,
    kind: str,
    formats: tuple[str, ...],
    room_mib: st.SearchStrategy[float] = rooms_mib,
) -> Device:
    """Any speed, room for half a layer to for the whole model, perhaps lacking a format."""
    runs = [name for name in formats if name == formats[-1] or draw(st.integers(0, 4))]
    return tiny_device(
        kind,
        room_mib=draw(room_mib),
        bytes_per_s=draw(tenfold(1e7)),
        flops_per_s=draw(tenfold(1e9)),
        formats=tuple(dict.fromkeys(["fp16", *runs])),
    )


links = st.builds(Link, st.just(0.0) | tenfold(1e-6), tenfold(1e4) | tenfold(1e7))


def output_lengths(requests: int) -> st.SearchStrategy[list[int]]:
    """Return lengths of outputs, one for all or one for each request."""
    alike = st.integers(1, 6).map(lambda tokens: [tokens] * requests)
    return alike | st.lists(st.integers(1, 6), min_size=requests, max_size=requests)


@st.composite
def models(draw: st.DrawFn, layers: int, *, most_kinds: int) -> ModelSpec:
    """A tiny model whose layers are of so many kinds at most, in any order."""
    tied = draw(st.booleans())
    plain = tiny_model(layers, tied=tied)
    numbers = draw(st.lists(st.integers(0, len(KINDS)), min_size=1, max_size=most_kinds))
    kinds = [plain.only_kind, *KINDS]
    chosen = draw(st.lists(st.sampled_from(numbers), min_size=layers, max_size=layers))
    present = list(dict.fromkeys(chosen))
    return replace(
        plain,
        kinds=tuple(kinds[number] for number in present),
        kind_of_layer=tuple(present.index(number) for number in chosen),
    )


@st.composite
def tasks(draw: st.DrawFn, *, alike: bool | None = None, most_kinds: int = 3) -> PlanningTask:
    """Any task.

    Args:
        draw: of hypothesis.
        alike: whether all layers are of one kind and lose the same; None leaves it open.
        most_kinds: of layers.
    """
    layers, places, width = draw(st.sampled_from(SIZES))
    formats = draw(st.sampled_from([names for names in FORMAT_SETS if len(names) == width]))
    kinds = {kind: draw(devices(kind, formats)) for kind in "abc"[:places]}
    chosen = [kinds[draw(st.sampled_from(sorted(kinds)))] for _ in range(places)]
    pairs = places * (places - 1) // 2
    scenario = tiny_scenario(
        chosen,
        draw(st.lists(links, min_size=pairs, max_size=pairs)),
        model=draw(models(layers, most_kinds=1 if alike else most_kinds)),
        prompt_tokens=draw(st.integers(1, 40)),
        output_tokens=tuple(draw(output_lengths(draw(st.integers(1, 4))))),
    )
    quality = nominal_quality(layers) if alike is True else draw(quality_tables(layers))
    share = draw(st.sampled_from([1.0, 0.7, 0.3, 0.0]))
    limit = share * sum(loss for loss in quality.losses[formats[0]] if math.isfinite(loss))
    return tiny_task(scenario, formats=formats, quality=quality, budget=limit)


@st.composite
def quality_tables(draw: st.DrawFn, layers: int) -> QualityTable:
    """Nominal losses by sensitivity, or any losses: of any unit, tied, zero or infinite."""
    if draw(st.booleans()):
        weights = draw(st.lists(tenfold(0.1), min_size=layers, max_size=layers))
        return nominal_quality(layers, weights)
    unit = draw(st.sampled_from([1.0, 1e-9, 1e6]))
    losses = tenfold(unit) | st.sampled_from([0.0, unit, math.inf])
    columns = {
        name: tuple(draw(st.lists(losses, min_size=layers, max_size=layers)))
        for name, kept in FORMATS.items()
        if kept.is_quantized
    }
    exact = (0.0,) * layers
    return QualityTable("any", {"fp16": exact, "bf16": exact, **columns})


@st.composite
def tasks_and_plans(draw: st.DrawFn) -> tuple[PlanningTask, Plan]:
    """Any task of which every plan is feasible, and one of them."""
    layers, places = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    kinds = {kind: draw(devices(kind, ("fp16",), room_mib=st.just(640.0))) for kind in "ab"}
    pairs = places * (places - 1) // 2
    scenario = tiny_scenario(
        [kinds[draw(st.sampled_from("ab"))] for _ in range(places)],
        draw(st.lists(links, min_size=pairs, max_size=pairs)),
        model=tiny_model(layers, tied=draw(st.booleans())),
        prompt_tokens=draw(st.integers(1, 40)),
        output_tokens=tuple(draw(output_lengths(draw(st.integers(1, 9))))),
    )
    task = tiny_task(scenario, formats=("fp16",))
    batching = draw(st.sampled_from(task_grid(task)))
    if draw(st.booleans()):
        most = scenario.workload.prompt_tokens
        batching = replace(batching, chunk_tokens=draw(st.integers(max(most // 6, 1), most)))
    placement = draw(st.sampled_from(list(every_placement(places, layers))))
    return task, plan_at(scenario, placement, ["fp16"] * layers, batching)


@dataclass(frozen=True)
class Enumerated:
    """A task with every feasible plan of it, simulated.

    Attributes:
        task: the task.
        grid: micro-batchings of its plans; those of a search unless told.
        makespans_s: by micro-batching, then by plan; plans that differ only in the order of formats
            of the layers of a kind within a stage take the same time, and one stands for all.
    """

    task: PlanningTask
    grid: tuple[MicroBatching, ...] | None = None

    @cached_property
    def makespans_s(self) -> dict[MicroBatching, dict[Plan, float]]:
        return {
            batching: self._simulated(batching) for batching in self.grid or task_grid(self.task)
        }

    def _simulated(self, batching: MicroBatching) -> dict[Plan, float]:
        found: dict[Plan, float] = {}
        alike: set[object] = set()
        for plan in every_plan(self.task, batching):
            if fits(plan, self.task) and keeps_budget(plan, self.task):
                held = self._held(plan)
                if held not in alike:
                    alike.add(held)
                    found[plan] = simulate_static(plan, self.task.costs).makespan_s
        return found

    def _held(self, plan: Plan) -> object:
        """Return the device of each stage with the kinds and formats that it holds."""
        kinds = self.task.costs.scenario.model.kind_of_layer
        return tuple(
            (stage.device, tuple(sorted(zip(kinds[first:], stage.formats, strict=False))))
            for stage, first in zip(plan.stages, plan.first_layers(), strict=True)
        )

    @property
    def best_by_micro_batching(self) -> dict[MicroBatching, float]:
        """The shortest makespan of each micro-batching that has a plan."""
        return {
            batching: min(plans.values()) for batching, plans in self.makespans_s.items() if plans
        }

    @property
    def best_s(self) -> float | None:
        """The shortest makespan of any plan, or None where there is no plan."""
        return min(self.best_by_micro_batching.values(), default=None)

"""Genetic operators on plans: mutations, crossover and repair.

Every operator takes plans that `check_plan` accepts and returns one. Plans are immutable; while
one is changed it is a draft, a list of stages with their device numbers and formats.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import isfinite

from numpy.random import Generator

from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.memory import plan_memory
from llmpq_sim.core.plan import MicroBatching, Plan, Stage
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.construction import arrange_formats, counts_of_kinds
from llmpq_sim.search.deadline import check_time
from llmpq_sim.search.scoring import keeps_budget

STEPS = (1, 1, 2, 4)
"""Layers moved at a time, drawn uniformly."""


@dataclass
class _DraftStage:
    device: int
    formats: list[str]


Draft = list[_DraftStage]


class Operators:
    """Mutation and crossover of plans for one task.

    Attributes:
        task: what is planned.
        grid: the micro-batchings a plan may have.
    """

    def __init__(self, task: PlanningTask, grid: Sequence[MicroBatching]) -> None:
        self.task = task
        self.grid = list(grid)
        self._members = task.costs.scenario.cluster.devices
        losses = {name: task.quality.uniform_loss(name) for name in task.formats}
        self._ranked = sorted(task.formats, key=lambda name: losses[name])
        self._run_by = [
            [name for name in member.device.formats if name in self._ranked]
            for member in self._members
        ]
        self._smaller = cache(self._find_smaller)  # both are asked anew for every layer repaired
        self._better = cache(self._find_better)

    def mutate(self, plan: Plan, rng: Generator) -> Plan:
        """Return the plan after one or two random changes."""
        for _ in range(int(rng.integers(1, 3))):
            change = self.changes()[int(rng.integers(len(self.changes())))]
            plan = change(plan, rng)
        return plan

    def cross(self, first: Plan, second: Plan, rng: Generator) -> Plan:
        """Return the first plan's stages with formats, and perhaps micro-batches, of the second."""
        draft = self._draft(first)
        low, high = sorted(rng.integers(0, len(first.layer_formats) + 1, size=2).tolist())
        layer = 0
        for stage in draft:
            for position in range(len(stage.formats)):
                name = second.layer_formats[layer]
                if low <= layer < high and name in self._runs(stage.device):
                    stage.formats[position] = name
                layer += 1
        chosen = first if rng.random() < 0.5 else second
        return self._plan(draft, chosen.micro_batching)

    def changes(self) -> tuple[Callable[[Plan, Generator], Plan], ...]:
        """Return the mutations that there are."""
        return (
            self.shift_boundary,
            self.change_formats,
            self.exchange_formats,
            self.transfer_bits,
            self.change_devices,
            self.change_micro_batching,
        )

    def shift_boundary(self, plan: Plan, rng: Generator) -> Plan:
        """Move layers between two stages; the stages between them pass as many on."""
        draft = self._draft(plan)
        if len(draft) < 2:
            return plan
        giver, taker = rng.choice(len(draft), size=2, replace=False).tolist()
        layers = min(_step(rng), len(draft[giver].formats) - 1)
        _move_layers(draft, giver, taker, layers)
        return self._plan(draft, plan.micro_batching)

    def change_formats(self, plan: Plan, rng: Generator) -> Plan:
        """Give some layers of one stage another format."""
        draft = self._draft(plan)
        stage = draft[int(rng.integers(len(draft)))]
        runs = self._runs(stage.device)
        name = runs[int(rng.integers(len(runs)))]
        for _ in range(_step(rng)):
            stage.formats[int(rng.integers(len(stage.formats)))] = name
        return self._plan(draft, plan.micro_batching)

    def exchange_formats(self, plan: Plan, rng: Generator) -> Plan:
        """Let two layers exchange their formats where their devices run them."""
        draft = self._draft(plan)
        one, other = (draft[int(rng.integers(len(draft)))] for _ in range(2))
        i, j = int(rng.integers(len(one.formats))), int(rng.integers(len(other.formats)))
        name, other_name = one.formats[i], other.formats[j]
        if other_name in self._runs(one.device) and name in self._runs(other.device):
            one.formats[i], other.formats[j] = other_name, name
        return self._plan(draft, plan.micro_batching)

    def transfer_bits(self, plan: Plan, rng: Generator) -> Plan:
        """Move layers to another stage, whose most precise layer makes room at fewer bits.

        LLM-PQ's bit transfer as a mutation (arXiv:2403.01136, sec. 5).
        """
        draft = self._draft(plan)
        if len(draft) < 2:
            return plan
        giver, taker = rng.choice(len(draft), size=2, replace=False).tolist()
        if len(draft[giver].formats) > 1:
            _move_layers(draft, giver, taker, 1)
        stage = draft[taker]
        precise = min(range(len(stage.formats)), key=lambda i: self._rank(stage.formats[i]))
        lower = [
            n
            for n in self._runs(stage.device)
            if self._rank(n) > self._rank(stage.formats[precise])
        ]
        if lower:
            stage.formats[precise] = min(lower, key=self._rank)
        return self._plan(draft, plan.micro_batching)

    def change_devices(self, plan: Plan, rng: Generator) -> Plan:
        """Swap two stages' devices, bring in an unused device, or leave one out."""
        draft = self._draft(plan)
        unused = sorted(set(range(len(self._members))) - {stage.device for stage in draft})
        choice = int(rng.integers(3))
        if choice == 0 and len(draft) > 1:
            one, other = rng.choice(len(draft), size=2, replace=False).tolist()
            draft[one].device, draft[other].device = draft[other].device, draft[one].device
        elif choice == 1 and unused:
            device = unused[int(rng.integers(len(unused)))]
            self._bring_in(draft, device, rng)
        elif len(draft) > 1:
            gone = int(rng.integers(len(draft)))
            heir = gone - 1 if gone else 1
            joined = (draft[heir].formats, draft[gone].formats)
            draft[heir].formats = [
                n for part in (joined if heir < gone else joined[::-1]) for n in part
            ]
            del draft[gone]
        return self._plan(draft, plan.micro_batching)

    def _bring_in(self, draft: Draft, device: int, rng: Generator) -> None:
        """Put a device in place of a stage's, or give it the second half of a stage."""
        number = int(rng.integers(len(draft)))
        formats = draft[number].formats
        if rng.random() < 0.5 or len(formats) == 1:
            draft[number].device = device
            return
        half = len(formats) // 2
        draft[number].formats = formats[:half]
        draft.insert(number + 1, _DraftStage(device, formats[half:]))

    def change_micro_batching(self, plan: Plan, rng: Generator) -> Plan:
        """Take another micro-batching of the grid, most often one alike in one of the phases."""
        now = plan.micro_batching
        near = [
            batching
            for batching in self.grid
            if (_prefill(batching) == _prefill(now)) != (_decode(batching) == _decode(now))
        ]
        choices = near if near and rng.random() < 0.8 else self.grid
        return Plan(plan.stages, choices[int(rng.integers(len(choices)))])

    def repair(self, plan: Plan) -> Plan | None:
        """Return the plan with formats lowered until it fits and raised until it keeps the budget.

        None where that is not enough. Each stage's formats are arranged for the least loss, so
        that plans which differ in nothing else are one.
        """
        lowered = self._fit(plan)
        kept = None if lowered is None else self._keep_budget(lowered)
        return None if kept is None else self._arranged(kept)

    def _arranged(self, plan: Plan) -> Plan:
        stages = []
        for stage, first in zip(plan.stages, plan.first_layers(), strict=True):
            counts = counts_of_kinds(self.task, stage.formats, first)
            stages.append(Stage(stage.device, arrange_formats(self.task, counts, first)))
        arranged = Plan(tuple(stages), plan.micro_batching)
        return arranged if keeps_budget(arranged, self.task) else plan

    def _fit(self, plan: Plan) -> Plan | None:
        """Lower the format of a layer of a stage that is too full, then move a layer away."""
        for _ in range(4 * len(plan.layer_formats)):
            check_time()
            memory = plan_memory(plan, self.task.costs.scenario)
            room = [stage.limit_bytes - stage.total_bytes for stage in memory]
            tightest = min(range(len(room)), key=lambda number: room[number])
            if room[tightest] >= 0:
                return plan
            draft = self._draft(plan)
            if not self._lower_one(plan, draft, tightest):
                roomiest = max(range(len(room)), key=lambda number: room[number])
                if room[roomiest] <= 0 or len(draft[tightest].formats) == 1:
                    return None
                _move_layers(draft, tightest, roomiest, 1)
            plan = self._plan(draft, plan.micro_batching)
        return None

    def _lower_one(self, plan: Plan, draft: Draft, number: int) -> bool:
        """Give the layer of a stage that suffers least its next lower format, if there is one."""
        first = plan.first_layers()[number]
        best: tuple[float, int, str] | None = None
        for position, name in enumerate(draft[number].formats):
            lower = self._smaller(draft[number].device, name, first + position)
            if lower is None:
                continue
            losses = self.task.quality.losses
            added = losses[lower][first + position] - losses[name][first + position]
            if best is None or added < best[0]:
                best = added, position, lower
        if best is not None:
            draft[number].formats[best[1]] = best[2]
        return best is not None

    def _keep_budget(self, plan: Plan) -> Plan | None:
        """Raise the format of the layer that gains most, where its stage has room."""
        full: set[int] = set()
        for _ in range(4 * len(plan.layer_formats)):
            if keeps_budget(plan, self.task):
                return plan
            check_time()
            found = self._most_gained(plan, full)
            if found is None:
                return None
            number, position, name = found
            draft = self._draft(plan)
            draft[number].formats[position] = name
            raised = self._plan(draft, plan.micro_batching)
            if plan_memory(raised, self.task.costs.scenario)[number].fits:
                plan = raised
            else:
                full.add(number)
        return None

    def _most_gained(self, plan: Plan, full: set[int]) -> tuple[int, int, str] | None:
        """Return stage, position and higher format of the layer that gains most by it."""
        losses = self.task.quality.losses
        best: tuple[float, int, int, str] | None = None
        for number, (stage, first) in enumerate(
            zip(self._draft(plan), plan.first_layers(), strict=True)
        ):
            if number in full:
                continue
            for position, name in enumerate(stage.formats):
                higher = self._better(stage.device, name, first + position)
                if higher is None:
                    continue
                gained = losses[name][first + position] - losses[higher][first + position]
                if best is None or gained > best[0]:
                    best = gained, number, position, higher
        return best[1:] if best else None

    def _find_smaller(self, device: int, name: str, layer: int) -> str | None:
        """Return the next format of fewer bits that a device runs and that a layer survives.

        Of formats of equal bits it is the one in which the layer loses less.
        """
        losses = self.task.quality.losses
        smaller = [
            other
            for other in self._runs(device)
            if FORMATS[other].stored_bits < FORMATS[name].stored_bits
            and isfinite(losses[other][layer])
        ]
        return max(
            smaller,
            key=lambda other: (FORMATS[other].stored_bits, -losses[other][layer]),
            default=None,
        )

    def _find_better(self, device: int, name: str, layer: int) -> str | None:
        """Return the next format that a device runs and in which a layer loses less."""
        losses = {other: self.task.quality.losses[other][layer] for other in self._runs(device)}
        better = [other for other, loss in losses.items() if loss < losses[name]]
        return max(
            better, key=lambda other: (losses[other], -FORMATS[other].stored_bits), default=None
        )

    def _rank(self, name: str) -> int:
        return self._ranked.index(name)

    def _runs(self, device: int) -> list[str]:
        return self._run_by[device]

    def _draft(self, plan: Plan) -> Draft:
        cluster = self.task.costs.scenario.cluster
        return [
            _DraftStage(cluster.index(stage.device, "plan"), list(stage.formats))
            for stage in plan.stages
        ]

    def _plan(self, draft: Draft, micro_batching: MicroBatching) -> Plan:
        """Return the plan of a draft; a format that a device cannot run becomes one it can."""
        stages = []
        for stage in draft:
            runs = self._runs(stage.device)
            formats = tuple(
                name
                if name in runs
                else min(runs, key=lambda n: abs(self._rank(n) - self._rank(name)))
                for name in stage.formats
            )
            stages.append(Stage(self._members[stage.device].name, formats))
        return Plan(tuple(stages), micro_batching)


def _prefill(batching: MicroBatching) -> tuple[int, int | None]:
    return batching.prefill, batching.chunk_tokens


def _decode(batching: MicroBatching) -> tuple[int, int]:
    return batching.decode, batching.groups_in_flight


def _step(rng: Generator) -> int:
    return STEPS[int(rng.integers(len(STEPS)))]


def _move_layers(draft: Draft, giver: int, taker: int, layers: int) -> None:
    """Move layers from one stage to another, every stage in between passing its own on."""
    step = 1 if taker > giver else -1
    for number in range(giver, taker, step):
        here, there = draft[number].formats, draft[number + step].formats
        if layers <= 0:
            return
        if step == 1:
            there[:0] = here[len(here) - layers :]
            del here[len(here) - layers :]
        else:
            there += here[:layers]
            del here[:layers]

"""Screening of plans: a time below which a plan's simulation cannot be."""

from collections import Counter

import numpy as np

from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.core.schedule import counted_batch_schedules
from llmpq_sim.search.bound.problem import (
    FloatArray,
    PlanningTask,
    Problem,
    build_problem,
    kinds_of,
)
from llmpq_sim.search.bound.schedule_terms import EMBEDDING, HEAD, TERMS, link_terms_s
from llmpq_sim.simulator.static.simulate import pipeline_links


class Screen:
    """Problems by micro-batching, each built once, and the closed form of a plan's makespan.

    Attributes:
        task: what is planned.
    """

    def __init__(self, task: PlanningTask) -> None:
        self.task = task
        self._problems: dict[MicroBatching, Problem] = {}
        self._kind_numbers = {place.kind: i for i, place in enumerate(kinds_of(task))}

    def problem(self, micro_batching: MicroBatching) -> Problem:
        """Return the problem of a micro-batching whose places are the kinds of device."""
        if micro_batching not in self._problems:
            built = build_problem(self.task, micro_batching, kinds_of(self.task))
            self._problems[micro_batching] = built
        return self._problems[micro_batching]

    def makespan_s(self, plan: Plan) -> float:
        """Return the terms of the certificate for this plan's own stages and links.

        The simulation is never faster, and seldom slower by much.
        """
        problem, costs = self.problem(plan.micro_batching), self.task.costs
        places, blocks = self._blocks(plan, problem)
        links = pipeline_links(plan, costs)
        shapes = counted_batch_schedules(costs.scenario.workload, plan.micro_batching)
        total_s = 0.0
        for terms, (shape, _) in zip(problem.waves, shapes, strict=True):
            prefill_links_s, path_links_s = link_terms_s(costs, shape, links)
            least, rest, decode_least, decode_rest, path = (
                _by_stage(array, places, blocks) + step_s[places]
                for array, step_s in zip(
                    (getattr(terms, name) for name in TERMS), terms.step_s, strict=True
                )
            )
            prefill_s = prefill_links_s + least.sum() + rest.max()
            path_s = path_links_s + path.sum()
            decode_s = max(path_s, decode_least.sum() + decode_rest.max())
            total_s += terms.count * float(prefill_s + decode_s)
        return total_s

    def _blocks(self, plan: Plan, problem: Problem) -> tuple[list[int], FloatArray]:
        """Return the place of each stage and its blocks. Shape: (stages, blocks, formats)."""
        cluster = self.task.costs.scenario.cluster
        places = []
        blocks = np.zeros((len(plan.stages), *problem.block_bytes.shape))
        columns = {name: column for column, name in enumerate(problem.formats)}
        for number, (stage, first) in enumerate(zip(plan.stages, plan.first_layers(), strict=True)):
            member = cluster.devices[cluster.index(stage.device, "plan")]
            places.append(self._kind_numbers[member.device.name])
            stop = first + len(stage.formats)
            counts = Counter(zip(problem.kind_of_layer[first:stop], stage.formats, strict=True))
            for (layer_kind, name), count in counts.items():
                if name in columns:
                    blocks[number, layer_kind, columns[name]] = count
        blocks[0, EMBEDDING, 0] = blocks[-1, HEAD, 0] = 1.0
        return places, blocks


def _by_stage(array: FloatArray, places: list[int], blocks: FloatArray) -> FloatArray:
    return np.asarray(np.einsum("bsf,sbf->s", array[:, places, :], blocks))

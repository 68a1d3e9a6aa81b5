"""SimPy model of the static policy: micro-batches that pass stages and links.

Each stage and each link is a resource that serves one micro-batch at a time, in order of arrival.
Each step, one micro-batch in one phase and round, is a process that passes them all; when its token
is back at the first stage, the steps that waited for it begin. `recurrence` computes the same
instants without events.
"""

from math import inf, nan

from simpy import Environment, Resource
from simpy.events import ProcessGenerator

from llmpq_sim.simulator.static.step_graph import OnStep, StepGraph, StepTimes


def simulate_steps(
    graph: StepGraph,
    start_s: float = 0.0,
    on_step: OnStep | None = None,
    most_steps: float = inf,
) -> StepTimes:
    """Return when each step of a graph is sampled, not a number for those not reached.

    Args:
        graph: what is asked of the pipeline.
        start_s: instant at which it begins.
        on_step: receives every step of a stage when it ends.
        most_steps: of all stages together, after which the simulation ends.
    """
    model = _Pipeline(graph, start_s, on_step, most_steps)
    model.run()
    return StepTimes(model.began_s, model.sampled_s, model.environment.now)


class _Pipeline:
    """Stages and links, and what they have done so far."""

    def __init__(
        self, graph: StepGraph, start_s: float, on_step: OnStep | None, most_steps: float
    ) -> None:
        self.environment = Environment(start_s)
        self.graph = graph
        self.on_step = on_step
        self.steps_left = min(most_steps, graph.steps * len(graph.service_s))
        self.stages = [Resource(self.environment) for _ in graph.service_s]
        self.links = [Resource(self.environment) for _ in graph.transfer_s]
        self.done = self.environment.event()
        self.began_s = [nan] * graph.steps
        self.sampled_s = [nan] * graph.steps

    def run(self) -> None:
        """Let the steps that wait at the first stage begin, and all that follow from them."""
        for step in range(self.graph.starts):
            self.environment.process(self._step(step))
        self.environment.run(until=self.done)

    def _step(self, step: int) -> ProcessGenerator:
        """Pass every stage and the link behind it; then let the followers begin."""
        environment, graph = self.environment, self.graph
        for number, (stage, link) in enumerate(zip(self.stages, self.links, strict=True)):
            with stage.request() as turn:
                yield turn
                began_s = environment.now
                yield environment.timeout(graph.service_s[number][step])
            if number == 0:
                self.began_s[step] = began_s
            if number == len(self.stages) - 1:
                self.sampled_s[step] = environment.now
            self._count(number, step, began_s)
            with link.request() as turn:
                yield turn
                yield environment.timeout(graph.transfer_s[number][step])
        for follower in graph.successors[step]:
            environment.process(self._step(follower))

    def _count(self, number: int, step: int, began_s: float) -> None:
        if self.on_step is not None:
            self.on_step(number, step, began_s, self.environment.now)
        self.steps_left -= 1
        if self.steps_left == 0:
            self.done.succeed()

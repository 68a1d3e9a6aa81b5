"""Runner of step graphs for figures that are shown: the SimPy model, checked by the recurrence."""

from math import inf

from llmpq_sim.simulator.agreement import check_figure, check_instants
from llmpq_sim.simulator.static.engine import simulate_steps
from llmpq_sim.simulator.static.recurrence import compute_steps
from llmpq_sim.simulator.static.step_graph import OnStep, StepGraph, StepTimes

MOST_STEPS = 25_000
"""Steps of all stages together that are simulated of one batch: about half a second. Most batches
have fewer; of longer ones, the rest is what the recurrence says, which agreed until then."""


class CheckedSteps:
    """Runs the step graphs of a batch, one wave after another.

    Attributes:
        steps_left: steps of all stages together that SimPy may still simulate.
    """

    def __init__(self, most_steps: float = MOST_STEPS) -> None:
        self.steps_left = most_steps

    def __call__(
        self, graph: StepGraph, start_s: float, on_step: OnStep | None = None
    ) -> StepTimes:
        """Return when each step of a graph is sampled.

        Args:
            graph: what is asked of the pipeline.
            start_s: instant at which it begins.
            on_step: receives every step of a stage that SimPy simulates, when it ends.

        Raises:
            InternalError: simulation and recurrence disagree.
        """
        computed = compute_steps(graph, start_s)
        if not self.steps_left:
            return computed
        simulated = simulate_steps(graph, start_s, on_step, self.steps_left)
        check_instants("beginning of step", simulated.began_s, computed.began_s)
        check_instants("instant of step", simulated.sampled_s, computed.sampled_s)
        steps = graph.steps * len(graph.service_s)
        if steps > self.steps_left:
            self.steps_left = 0
            return computed
        check_figure("end of a wave", simulated.end_s, computed.end_s)
        self.steps_left -= steps
        return simulated


def every_step() -> CheckedSteps:
    """Return a runner that simulates all steps in SimPy."""
    return CheckedSteps(inf)

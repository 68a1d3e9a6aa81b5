"""A plan's batch, simulated."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from llmpq_sim.api.planned import AnyPlan, Profiles, load
from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.core.plan import Plan
from llmpq_sim.core.result import SimulationResult
from llmpq_sim.io.plans import with_workload
from llmpq_sim.io.tasks import load_output_lengths
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.scoring import PlanScore, score_in_simpy
from llmpq_sim.search.shortage import why_infeasible
from llmpq_sim.simulator.static.policies import STATIC, batch_policy


@dataclass(frozen=True)
class Simulation:
    """What a plan does with a batch.

    Attributes:
        plan: what was simulated.
        task: the batch, with the model, the cluster and the latency profiles.
        policy: how micro-batches follow each other.
        score: memory per stage in bytes, quality loss, and the times where the plan is feasible.
    """

    plan: Plan
    task: PlanningTask
    score: PlanScore
    policy: str = STATIC

    @property
    def result(self) -> SimulationResult:
        """Times in seconds and rates per second.

        Raises:
            InfeasibleError: the plan does not fit, or loses too much.
        """
        if self.score.result is None:
            raise InfeasibleError(f"plan: {why_infeasible(self.score, self.task)}")
        return self.score.result

    @property
    def tokens_per_s(self) -> float:
        """Generated tokens per second.

        Raises:
            InfeasibleError: see ``result``.
        """
        return self.result.tokens_per_s


def simulate(
    plan: AnyPlan,
    *,
    batch: int | None = None,
    prompt_tokens: int | None = None,
    output_tokens: int | Sequence[int] | Path | None = None,
    policy: str = STATIC,
    profiles: Profiles = (),
) -> Simulation:
    """Return what a plan does with its own batch, or with another.

    Args:
        plan: what ``plan`` returned, or the name of a plan file.
        batch: another number of requests.
        prompt_tokens: another length of the (padded) prompts.
        output_tokens: other numbers of tokens to generate, one for all or one for each request, or
            a file with a number a line.
        policy: how micro-batches follow each other: ``static``, or the name of an installed policy.
        profiles: see ``load``.

    Raises:
        InputError: the file is damaged, the batch cannot be, or there is no such policy.
    """
    saved = load(plan, profiles=profiles)
    if isinstance(output_tokens, Path):
        output_tokens = load_output_lengths(output_tokens)
    elif output_tokens is not None and not isinstance(output_tokens, int):
        output_tokens = tuple(output_tokens)
    task, given = with_workload(saved, batch, prompt_tokens, output_tokens)
    score = score_in_simpy(given, task, batch_policy(policy))
    return Simulation(given, task, score, policy)

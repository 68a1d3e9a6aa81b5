"""Cases of the paper: cluster, workload, share generated and kernel set."""

from dataclasses import dataclass, replace

from llmpq_sim.core.cluster import Cluster
from llmpq_sim.core.formats import PAPER_FORMATS
from llmpq_sim.core.scenario import BatchWorkload, Scenario
from llmpq_sim.io.clusters import cluster_to_dict, load_cluster
from llmpq_sim.io.files import sha256_of
from llmpq_sim.io.models import load_model
from llmpq_sim.io.profiles import SPEC, cluster_profiles, profile_sha256
from llmpq_sim.io.tasks import QualityTarget, planning_task
from llmpq_sim.paper.assumptions import machines_of_paper, runtime_of_2023, steps_of_2023
from llmpq_sim.paper.measurements import CLUSTERS, GAMMA, MEASURED_TOKENS_PER_S, REQUESTS, WORKLOADS
from llmpq_sim.search.bound.problem import PlanningTask

KERNELS_OF_2023 = "gptq-2023"
"""GPTQ kernels for 3 and 4 bits, LLM.int8 for 8, PyTorch for 16."""

KERNEL_SETS = (KERNELS_OF_2023, SPEC)
"""The paper's kernels, and data-sheet rooflines, which stand for current ones: those read 3- and
4-bit weights as fast as others, in both phases."""

LOWEST_QUALITY = QualityTarget("int3", None)


@dataclass(frozen=True)
class Case:
    """What is evaluated.

    Attributes:
        cluster: its number in the paper.
        workload: ``main`` or ``lat``.
        gamma: share of the output that is generated.
        kernels: one of KERNEL_SETS.
    """

    cluster: int
    workload: str
    gamma: float
    kernels: str

    @property
    def label(self) -> str:
        """The case in a few words, as file names and progress have it."""
        return f"paper-{self.cluster}.{self.workload}.{self.gamma:g}.{self.kernels}"

    def task(self) -> PlanningTask:
        """Return what is planned: all of the output, whatever share of it is then generated.

        Devices have the memory that the reference plans with, and no format is too bad.

        Raises:
            InputError: bundled data cannot be read.
        """
        return self._task(machines_of_paper(self._cluster()), 1.0)

    def real_task(self) -> PlanningTask:
        """Return what plans are judged by: the share generated, devices with all their memory.

        Raises:
            InputError: bundled data cannot be read.
        """
        return self._task(self._cluster(), self.gamma)

    def _cluster(self) -> Cluster:
        return load_cluster(CLUSTERS[self.cluster].name)

    def _task(self, cluster: Cluster, gamma: float) -> PlanningTask:
        paper, shape = CLUSTERS[self.cluster], WORKLOADS[self.workload]
        profiles = cluster_profiles(cluster, self.kernels, {})
        if self.kernels == KERNELS_OF_2023:
            cluster = runtime_of_2023(cluster)
            profiles = {kind: steps_of_2023(profile) for kind, profile in profiles.items()}
        workload = BatchWorkload(shape.prompt_tokens, (shape.generated_tokens(gamma),) * REQUESTS)
        scenario = Scenario(load_model(paper.model), cluster, workload)
        return planning_task(scenario, profiles, PAPER_FORMATS, LOWEST_QUALITY)

    def measured_tokens_per_s(self, method: str) -> float | None:
        """Return what the authors measured for a method, or None where they logged nothing."""
        if (self.workload, self.gamma, self.kernels) != ("main", GAMMA, KERNELS_OF_2023):
            return None
        return MEASURED_TOKENS_PER_S.get(self.cluster, {}).get(method)


def all_cases(
    clusters: tuple[int, ...],
    workloads: tuple[str, ...],
    gamma: float,
    kernels: tuple[str, ...],
) -> list[Case]:
    """Return every combination, kernel sets outermost, then workloads, then clusters."""
    return [
        Case(cluster, workload, gamma, name)
        for name in kernels
        for workload in workloads
        for cluster in clusters
    ]


def with_budget(task: PlanningTask, loss: float) -> PlanningTask:
    """Return the task with another largest loss."""
    return replace(task, budget=loss)


def task_sha256(task: PlanningTask) -> str:
    """Return a hash of everything that a task's plans follow from."""
    scenario = task.costs.scenario
    workload = scenario.workload
    return sha256_of(
        {
            "model": scenario.model.name,
            "cluster": cluster_to_dict(scenario.cluster),
            "workload": [workload.prompt_tokens, list(workload.output_tokens)],
            "profiles": {
                kind: profile_sha256(profile) for kind, profile in task.costs.profiles.items()
            },
            "losses": {name: list(task.quality.losses[name]) for name in task.formats},
            "budget": task.budget,
        }
    )

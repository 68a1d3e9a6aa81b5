"""Measurements of LLM-PQ's authors on each cluster.

Facts from their repository (arXiv:2403.01136): table of clusters, raw logs of May and June 2023,
and a notebook of August 2023. Nothing here enters a latency model: predictions are held against it.
"""

from dataclasses import dataclass

from llmpq_sim.core.plan import MicroBatching, Plan, Stage


@dataclass(frozen=True)
class PaperCluster:
    """One of the eleven clusters.

    Attributes:
        number: its number in the paper.
        model: what it serves.
        theta: weight of quality loss in the authors' objective, set by hand.
        bits_pipeedge, bits_llmpq: the bitwidths that their plans had, as logged; empty where
            nothing was logged.
    """

    number: int
    model: str
    theta: float
    bits_pipeedge: str = ""
    bits_llmpq: str = ""

    @property
    def name(self) -> str:
        """The bundled cluster."""
        return f"paper-{self.number}"


@dataclass(frozen=True)
class PaperWorkload:
    """An offline batch of the paper: 32 prompts of one length.

    Attributes:
        name: ``main`` or ``lat``.
        prompt_tokens: of each prompt.
        output_tokens: to generate where gamma is 1.
    """

    name: str
    prompt_tokens: int
    output_tokens: int

    def generated_tokens(self, gamma: float) -> int:
        """Return the tokens that are generated where a share gamma of them is."""
        return round(gamma * self.output_tokens)


@dataclass(frozen=True)
class LoggedPlan:
    """A plan of August 2023 on cluster 3, with 100 tokens generated.

    Attributes:
        method: who planned it.
        plan: with the names of the bundled cluster's devices.
        prefill_s, decode_s: what the authors' own latency model gave each stage for a micro-batch
            of 8 prompts, and for a token of each.
        tokens_per_s: measured.
    """

    method: str
    plan: Plan
    prefill_s: tuple[float, ...]
    decode_s: tuple[float, ...]
    tokens_per_s: float


REQUESTS = 32
GAMMA = 0.8
"""Share of the output that the raw logs generated: throughput counts 80 tokens of 100."""

CLUSTERS = {
    cluster.number: cluster
    for cluster in (
        PaperCluster(1, "opt-13b", 1, "4", "8"),
        PaperCluster(2, "opt-13b", 1, "8", "8/16"),
        PaperCluster(3, "opt-30b", 50_000, "8", "8"),
        PaperCluster(4, "opt-30b", 1_000, "4", "8"),
        PaperCluster(5, "opt-66b", 50, "4", "8/3"),
        PaperCluster(6, "opt-66b", 100),
        PaperCluster(7, "bloom-176b", 10, "4", "3/4/8/16"),
        PaperCluster(8, "bloom-176b", 10, "4", "3/8/16"),
        PaperCluster(9, "opt-30b", 1),
        PaperCluster(10, "opt-66b", 1),
        PaperCluster(11, "bloom-176b", 10),
    )
}

WORKLOADS = {
    workload.name: workload
    for workload in (PaperWorkload("main", 512, 100), PaperWorkload("lat", 128, 200))
}

MEASURED_TOKENS_PER_S = {
    1: {"uniform": 11.78, "pipeedge": 11.78, "adabits": 25.78, "llm-pq-ilp": 83.45},
    2: {"uniform": 131.48, "pipeedge": 130.56, "adabits": 161.52, "llm-pq-ilp": 173.63},
    3: {"uniform": 2.98, "pipeedge": 31.09, "adabits": 29.93, "llm-pq-ilp": 31.95},
    4: {"pipeedge": 6.01, "adabits": 18.33, "llm-pq-ilp": 22.07},
    5: {"adabits": 9.87, "llm-pq-ilp": 12.94},
    7: {"pipeedge": 3.80, "adabits": 9.96, "llm-pq-ilp": 10.71},
    8: {"pipeedge": 3.16, "adabits": 10.27, "llm-pq-ilp": 11.70},
}
"""Throughput by cluster and method, main workload, gamma 0.8 (raw logs). The logs do not say which
of their two solvers planned for LLM-PQ; it stands beside the integer program."""


def _layers(int8: int, fp16: int) -> tuple[str, ...]:
    return ("fp16",) * fp16 + ("int8",) * int8


_MICRO_BATCHING = MicroBatching(prefill=8, decode=8, groups_in_flight=4)

LOGGED_PLANS = (
    LoggedPlan(
        "llm-pq-ilp",
        Plan(
            (
                Stage("v100-32g-0", _layers(16, 2)),
                *(Stage(f"t4-{number}", _layers(10, 0)) for number in range(3)),
            ),
            _MICRO_BATCHING,
        ),
        (1.6110, 1.7309, 1.7309, 1.7309),
        (0.1561, 0.0829, 0.0829, 0.0829),
        39.70,
    ),
    LoggedPlan(
        "adabits",
        Plan(
            (
                Stage("t4-0", _layers(7, 1)),
                *(Stage(f"t4-{number}", _layers(9, 1)) for number in (1, 2)),
                Stage("v100-32g-0", _layers(20, 0)),
            ),
            _MICRO_BATCHING,
        ),
        (1.4770, 1.8231, 1.8231, 1.7950),
        (0.0667, 0.0833, 0.0833, 0.1871),
        33.93,
    ),
)
"""Known are the layers of each stage and that the bits are 8 and 16. How many layers have 16 is
inferred from the logged stage costs, whose differences are whole layers: 10 x 173.1 ms on a T4 at
8 bits, 9 x 173.1 + 265.2 and 7 x 173.1 + 265.2 with one layer at 16 (measured alone: 173.7 and
262.6); on V100, 20 x 9.36 ms of decode at 8 bits, and 16 x 9.36 + 2 x 3.2."""

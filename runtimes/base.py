"""Runtime protocol, and discovery of runtimes by entry points."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Protocol

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.execution import Execution
from llmpq_sim.core.extensions import ExtensionPoint
from llmpq_sim.core.records import Codec, Natural, NotNegative
from llmpq_sim.simulator.continuous.settings import ContinuousSettings

if TYPE_CHECKING:  # the processes of stages know no plan files, and so load no planner
    from llmpq_sim.io.plans import SavedPlan

RUNTIMES = ExtensionPoint("llmpq.runtimes", "runtime")

Policy = Literal["static", "continuous"]
EndedBy = Literal["stop", "length"]


@dataclass(frozen=True)
class Sampling:
    """How the next token is chosen.

    Attributes:
        temperature: 0 takes the most probable token, whatever the other fields say.
        top_k: only so many of the most probable tokens; 0 for all.
        top_p: only the most probable tokens that together have this probability.
        seed: of all draws for the request; equal seeds give equal tokens in any batch.
    """

    temperature: NotNegative = 0.0
    top_k: Natural = 0
    top_p: float = 1.0
    seed: Annotated[int, Codec(lambda fields, key: int(fields.text(key)), str)] = 0


@dataclass(frozen=True)
class TokenRequest:
    """A request as a runtime sees it.

    Attributes:
        name: the user's name for it; distinct within a job.
        prompt: token ids, at least one.
        output_tokens: most tokens to generate, at least one.
        sampling: how tokens are chosen.
        stop_tokens: ids that end the output when generated; they count as generated.
        arrival_s: instant at which it may first be scheduled.
    """

    name: Annotated[str, Codec(lambda fields, key: str(fields.value(key)))]
    prompt: tuple[Natural, ...]
    output_tokens: int
    sampling: Sampling = Sampling()
    stop_tokens: tuple[Natural, ...] = ()
    arrival_s: NotNegative = 0.0

    @property
    def context_tokens(self) -> int:
        """Most tokens of prompt and output."""
        return len(self.prompt) + self.output_tokens


@dataclass(frozen=True)
class Completion:
    """A finished request.

    Attributes:
        request: its position in the job.
        tokens: what was generated.
        ended_by: ``stop`` after a stop token, ``length`` at its most tokens.
    """

    request: int
    tokens: tuple[int, ...]
    ended_by: EndedBy


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        phase: ``loading`` or ``serving``.
        finished, requests: requests done and in all.
        output_tokens: generated so far.
        elapsed_s: since the first request could be scheduled.
        busy_fraction: share of that time each stage computed.
    """

    phase: str
    finished: int
    requests: int
    output_tokens: int
    elapsed_s: float
    busy_fraction: tuple[float, ...]


@dataclass(frozen=True)
class RuntimeOptions:
    """Where and how a job runs; None where the runtime chooses.

    Attributes:
        dtype: ``bf16``, ``fp16`` or ``fp32`` for everything that is not quantized.
        devices: PyTorch device of each stage, such as ``cpu`` or ``cuda:0``.
        weight_cache: folder in which quantized weights are kept for the next start.
        nodes, node_rank: how many machines take part, and which of them this is.
        master: ``host:port`` at which stages meet; needed for several machines.
        hang_timeout_s: how long a stage may stay silent before it counts as hung.
        step_timeout_s: how long a single step may take before its stage counts as hung.
        enforces_memory: whether a stage may take no more than its device is stated to have.
        uses_cuda_graphs: whether GPUs repeat decode steps that were recorded (CUDA graphs).
        batch_invariant: whether a request's tokens are the same in whatever batch it is served.
    """

    dtype: str | None = None
    devices: tuple[str, ...] | None = None
    weight_cache: Path | None = None
    nodes: int = 1
    node_rank: int = 0
    master: str | None = None
    hang_timeout_s: float = 5.0
    step_timeout_s: float = 120.0
    enforces_memory: bool = False
    uses_cuda_graphs: bool = False
    batch_invariant: bool = False


@dataclass(frozen=True)
class Job:
    """A plan and the requests it is to serve.

    Attributes:
        saved: the plan with its scenario and the profiles it was made with.
        requests: in order; a static batch takes as many at a time as the plan's batch has.
        model_dir: folder of the model in Hugging Face's layout; None where none is needed.
        policy: ``static`` (the plan's micro-batches) or ``continuous``.
        settings: of continuous batching; None for the static policy.
        options: where and how it runs.
        concurrency: requests in flight of a closed loop, with continuous batching: so many are
            there at the start, in order, and each that is finished lets the next one in, whatever
            its ``arrival_s`` says. None where each arrives at an instant of its own.
    """

    saved: "SavedPlan"
    requests: tuple[TokenRequest, ...]
    model_dir: Path | None = None
    policy: Policy = "static"
    settings: ContinuousSettings | None = None
    options: RuntimeOptions = field(default_factory=RuntimeOptions)
    concurrency: int | None = None


def ignore_completion(_: Completion) -> None:
    """Keep nothing of a finished request."""


def ignore_progress(_: Progress) -> None:
    """Show no progress."""


class Runtime(Protocol):
    """Carries out plans."""

    name: str

    def check(self, job: Job) -> None:
        """Check that a job could be run, before anything is loaded.

        Raises:
            LlmpqError: it could not; the message says what is wrong and what to do.
        """

    def run(
        self,
        job: Job,
        on_completion: Callable[[Completion], None] = ignore_completion,
        on_progress: Callable[[Progress], None] = ignore_progress,
    ) -> Execution | None:
        """Serve every request and return what happened; leave no process behind.

        Where several machines take part, only that of the first stage returns something.

        Args:
            job: one that ``check`` accepts.
            on_completion: receives each request as it finishes.
            on_progress: receives now and then how far the run is.

        Raises:
            ExecutionError: a stage failed; requests received until then are finished.
        """


def load_runtime(name: str) -> Runtime:
    """Return the runtime that some installed package offers under this name.

    Raises:
        InputError: none does, or its package lacks something.
    """
    if name not in RUNTIMES.names():
        raise InputError(
            f"--runtime: expected an installed runtime ({', '.join(RUNTIMES.names())}), "
            f"got {name!r}"
        )
    runtime: Runtime = RUNTIMES.load(name)()
    return runtime

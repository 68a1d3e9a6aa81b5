"""Execution: what was measured when a runtime executed a plan."""

from dataclasses import dataclass

from llmpq_sim.core.result import SimulationResult


@dataclass(frozen=True)
class ServedTimes:
    """Lengths and instants of one request; instants count from when the first could be scheduled.

    Attributes:
        name: the user's name for it.
        prompt_tokens, output_tokens: of the prompt, and generated.
        arrival_s: when it could first be scheduled.
        first_s, last_s: when its first and last tokens were sampled.
    """

    name: str
    prompt_tokens: int
    output_tokens: int
    arrival_s: float
    first_s: float
    last_s: float


@dataclass(frozen=True)
class StageVisit:
    """One micro-batch at one stage.

    Attributes:
        stage: number of the stage.
        visit: number of the micro-batch, in the order in which they enter the pipeline.
        decodes: sequences that decode one token each.
        prompt_tokens: tokens of prompts.
        began_s, ended_s: instants at which the stage computed it.
    """

    stage: int
    visit: int
    decodes: int
    prompt_tokens: int
    began_s: float
    ended_s: float


@dataclass(frozen=True)
class Execution:
    """One real execution of a plan.

    Attributes:
        result: the metrics, as a simulation gives them.
        requests: lengths and instants of each finished request, in the order of the job.
        visits: of all stages, by the instant at which they ended.
        stage_peak_bytes: most memory each stage took while serving.
        loading_s: from the start to when every stage was ready.
        dtype: in which everything was computed that is not quantized.
        notes: what a reader should know, in sentences.
    """

    result: SimulationResult
    requests: tuple[ServedTimes, ...]
    visits: tuple[StageVisit, ...]
    stage_peak_bytes: tuple[int, ...]
    loading_s: float
    dtype: str
    notes: tuple[str, ...] = ()

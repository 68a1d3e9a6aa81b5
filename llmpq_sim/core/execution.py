"""Execution: what was measured when a runtime executed a plan."""

from dataclasses import dataclass
from typing import Annotated

from llmpq_sim.core.fields import Rule
from llmpq_sim.core.records import Key, Natural, NotNegative, columns
from llmpq_sim.core.result import SimulationResult


@dataclass(frozen=True)
class RequestTiming:
    """Lengths and instants of one request; instants count from when the first could be scheduled.

    It arrives when it could first be scheduled; its first and last tokens are those sampled.
    """

    name: Annotated[str, Rule("a text", lambda value: isinstance(value, str))]
    prompt_tokens: int
    output_tokens: int
    arrival_s: NotNegative
    first_s: NotNegative
    last_s: NotNegative


@dataclass(frozen=True)
class StageStep:
    """One micro-batch at one stage.

    Attributes:
        step: number of the micro-batch, in the order in which they enter the pipeline.
        decodes: sequences that decode one token each.
        began_s, ended_s: instants at which the stage computed it.
    """

    stage: Natural
    step: Annotated[Natural, Key("visit")]
    decodes: Natural
    prompt_tokens: Natural
    began_s: NotNegative
    ended_s: NotNegative


@dataclass(frozen=True, kw_only=True)
class Execution:
    """One real execution of a plan.

    Attributes:
        dtype: in which everything was computed that is not quantized.
        loading_s: from the start to when every stage was ready.
        notes: what a reader should know, in sentences.
        result: the metrics, as a simulation gives them.
        stage_peak_bytes: most memory each stage took while serving.
        requests: lengths and instants of each finished request, in the order of the job.
        steps: of all stages, by the instant at which they ended.
    """

    dtype: str
    loading_s: NotNegative
    notes: tuple[str, ...] = ()
    result: SimulationResult
    stage_peak_bytes: tuple[Natural, ...]
    requests: Annotated[tuple[RequestTiming, ...], columns(RequestTiming, "requests")]
    steps: Annotated[tuple[StageStep, ...], columns(StageStep, "visits"), Key("visits")]

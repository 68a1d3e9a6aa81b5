"""In-pipeline calibration: the steps of a real pipeline that a profile times."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.memory import (
    batch_temporaries_bytes,
    embedding_bytes,
    head_bytes,
    layer_weight_bytes,
    sampled_logits_bytes,
)
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.io.locks import owned_folder
from llmpq_sim.latency.fitting.pipeline_calibration import ALL_DENSE, FIRST, LAST, PHASES
from runtimes.profiling.points import Point, Series
from runtimes.profiling.processor import Target, stage_cores
from runtimes.profiling.task import Task
from runtimes.profiling.timing import Timing
from runtimes.profiling.workers import answers, workers
from runtimes.torch_pipeline.weights.loading import DTYPE_NAMES

WORKER = "runtimes.profiling.served_worker"

ENDS = (FIRST, LAST)
ROWS = 4
PROMPT_TOKENS = 64
"""Of each sequence; fewer where the model takes no such contexts."""

LAYERS, FEWER_LAYERS = 6, 4
"""Of the last stage, and by how many the stages of a second pipeline are shorter: their difference
tells what a layer takes from what a step takes."""


@dataclass(frozen=True)
class ServedPipeline:
    """Two stages with both ends of a model that serve a few sequences.

    Attributes:
        model: its name.
        format_name: of all layers.
        is_dense: whether all weights are decoded before they are multiplied.
        layers: of the first stage and of the last.
        prompt_tokens: of each sequence.
        rounds: tokens that each sequence is given.
    """

    model: str
    format_name: str
    is_dense: bool
    layers: tuple[int, int]
    prompt_tokens: int
    rounds: int

    @property
    def points(self) -> Series:
        """Decode and prefill steps of the first stage, then of the last."""
        contexts = {"decode": self.prompt_tokens + self.rounds // 2, "prefill": self.prompt_tokens}
        return tuple(
            Point(
                "served",
                phase,
                self.format_name,
                self.model,
                kernel=end + ALL_DENSE if self.is_dense else end,
                batch=ROWS,
                seq=contexts[phase],
                layers=layers,
            )
            for end, layers in zip(ENDS, self.layers, strict=True)
            for phase in PHASES
        )


@dataclass(frozen=True)
class Served:
    """What a real pipeline took.

    Attributes:
        timings: of its steps, in the order of the pipeline's points.
        beside_bytes: of each stage: what its process takes beside what a plan counts of it.
    """

    timings: tuple[Timing, ...]
    beside_bytes: tuple[int, int]


def serves_here(target: Target) -> bool:
    """Return whether two stages of as many cores as the target has can be at work here."""
    return target.device.type == "cpu" and len(target.all_cores) >= 2 * target.threads


def served_pipelines(
    spec: ModelSpec,
    formats: Sequence[str],
    rounds: int,
    most_bytes: float,
    *,
    with_dense: bool = False,
) -> tuple[ServedPipeline, ...]:
    """Return pipelines of a model in each format, those that differ in depth alone side by side.

    Args:
        spec: the model.
        formats: of weights.
        rounds: tokens of each sequence; none for no pipelines.
        most_bytes: that the weights of both stages may take.
        with_dense: whether a device without fused kernels is timed as well, in 16 bits: whatever
            it has to decode at each step is too slow there to be planned.
    """
    if not rounds:
        return ()
    rounds = min(rounds, spec.max_positions // 2)
    prompt_tokens = min(PROMPT_TOKENS, spec.max_positions - rounds)
    return tuple(
        ServedPipeline(spec.name, name, is_dense, layers, prompt_tokens, rounds)
        for name in formats
        for is_dense in (False, True)[: 1 + (with_dense and not FORMATS[name].is_quantized)]
        for layers in depths(spec, name)
        if _weights_bytes(spec, name, layers) <= most_bytes
    )


def depths(spec: ModelSpec, format_name: str) -> tuple[tuple[int, int], ...]:
    """Return the layers of the first and of the last stage, the deeper pipeline first.

    The first stage has about as many layers more as the LM head is worth, so that both stages are
    always at work, as in a plan: a core whose neighbour rests is faster.
    """
    layer_bytes = layer_weight_bytes(spec.only_kind, FORMATS[format_name])
    worth = min(round(head_bytes(spec) / layer_bytes), LAYERS)
    deep = min(LAYERS + worth, spec.layers), min(LAYERS, spec.layers)
    fewer = min(FEWER_LAYERS, deep[1] - 1)
    shallow = deep[0] - fewer, deep[1] - fewer
    return (deep, shallow) if fewer else (deep,)


def served_timings(
    pipelines: Sequence[ServedPipeline], task: Task, dense_from_tokens: Mapping[str, int]
) -> Iterator[Served | None]:
    """Yield what each pipeline took, None where its decode steps take too long to be timed.

    Args:
        pipelines: of the task's models.
        task: the profile.
        dense_from_tokens: by format, tokens from which weights are decoded beforehand.

    Raises:
        ExecutionError: one of the processes failed.
    """
    with owned_folder("llmpq-profile-") as folder:
        shared = {
            "rendezvous": str(folder / "rendezvous"),
            "models": {name: model.source for name, model in task.models.items()},
            "pipelines": [asdict(pipeline) for pipeline in pipelines],
            "dtype": DTYPE_NAMES[task.dtype],
            "threads": task.target.threads,
            "rows": ROWS,
            "dense_from_tokens": dict(dense_from_tokens),
            "longest_visit_s": task.settings.timing_effort.longest_call_s,
        }
        told = [
            shared
            | {"rank": rank, "cores": stage_cores(task.target.all_cores, rank, task.target.threads)}
            for rank in range(len(ENDS))
        ]
        with workers(WORKER, told) as started:
            found = answers(started, len(pipelines), "serving with two processes")
            for pipeline, ends in zip(pipelines, found, strict=True):
                spec = task.models[pipeline.model].spec
                yield _served(spec, pipeline, ends) if ends else None


def _served(spec: ModelSpec, pipeline: ServedPipeline, ends: list[dict[str, Any]]) -> Served:
    first_bytes, last_bytes = (
        end["beside_bytes"] - _counted_bytes(spec, pipeline, name)
        for name, end in zip(ENDS, ends, strict=True)
    )
    timings = (Timing(**end[phase]) for end in ends for phase in PHASES)
    return Served(tuple(timings), (first_bytes, last_bytes))


def _counted_bytes(spec: ModelSpec, pipeline: ServedPipeline, end: str) -> int:
    """Return the bytes beside weights and KV cache that a plan counts of such a stage."""
    logits_bytes = sampled_logits_bytes(spec, ROWS) if end == LAST else 0
    return batch_temporaries_bytes(spec, ROWS * pipeline.prompt_tokens) + logits_bytes


def _weights_bytes(spec: ModelSpec, format_name: str, layers: tuple[int, int]) -> int:
    """Return what the weights of both stages take together."""
    of_layers = sum(layers) * layer_weight_bytes(spec.only_kind, FORMATS[format_name])
    return of_layers + embedding_bytes(spec) + head_bytes(spec)

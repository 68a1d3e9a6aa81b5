"""Which visits of a real pipeline are timed, so that what its parts leave out is known?"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from llmpq_sim.latency.served_fits import FIRST, LAST
from llmpq_sim.memory import batch_temporaries_bytes, sampled_logits_bytes
from llmpq_sim.model import ModelSpec
from runtimes.profiling.points import Point
from runtimes.profiling.processor import Target, stage_cores
from runtimes.profiling.task import Task
from runtimes.profiling.timing import Timing
from runtimes.profiling.workers import answers, workers
from runtimes.torch_pipeline.loading import DTYPE_NAMES

WORKER = "runtimes.profiling.served_worker"

ENDS = (FIRST, LAST)
ROWS, LAYERS = 4, 2
PROMPT_TOKENS = 64
"""Of each sequence; fewer where the model takes no such contexts."""


def serves_here(target: Target) -> bool:
    """Return whether two stages of as many cores as the target has can be at work here."""
    return target.device.type == "cpu" and len(target.all_cores) >= 2 * target.threads


def served_points(spec: ModelSpec, formats: tuple[str, ...], rounds: int) -> tuple[Point, ...]:
    """Return decode visits of both ends of a model, for each format; none of no rounds."""
    if not rounds:
        return ()
    prompt_tokens, rounds = _lengths(spec, rounds)
    visit = Point(
        "served",
        "decode",
        model=spec.name,
        batch=ROWS,
        seq=prompt_tokens + rounds // 2,
        layers=min(LAYERS, spec.layers),
    )
    return tuple(
        replace(visit, quant=format_name, kernel=end) for format_name in formats for end in ENDS
    )


@dataclass(frozen=True)
class Served:
    """A visit that was timed in a real pipeline.

    Attributes:
        point: which.
        timing: how long it took.
        runtime_bytes: what its process takes beside what a plan counts of its stage.
    """

    point: Point
    timing: Timing
    runtime_bytes: int


def served_timings(
    points: tuple[Point, ...], task: Task, dense_from_tokens: Mapping[str, int]
) -> Iterator[Served]:
    """Yield the visits of both ends of a format, one after the other.

    Args:
        points: both ends of some formats.
        task: the profile.
        dense_from_tokens: by format, tokens from which weights are decoded beforehand.

    Raises:
        ExecutionError: one of the processes failed.
    """
    model = next(iter(task.models.values()))
    formats = tuple(dict.fromkeys(point.quant for point in points))
    prompt_tokens, rounds = _lengths(model.spec, task.settings.sizes.served_rounds)
    with tempfile.TemporaryDirectory() as folder:
        shared = {
            "rendezvous": str(Path(folder) / "rendezvous"),
            "model": task.settings.models[0],
            "formats": formats,
            "dtype": DTYPE_NAMES[task.dtype],
            "threads": task.target.threads,
            "layers": points[0].layers,
            "rows": ROWS,
            "prompt_tokens": prompt_tokens,
            "rounds": rounds,
            "dense_from_tokens": dict(dense_from_tokens),
        }
        told = [
            shared
            | {"rank": rank, "cores": stage_cores(task.target.all_cores, rank, task.target.threads)}
            for rank in range(len(ENDS))
        ]
        with workers(WORKER, told) as started:
            for ends in answers(started, len(formats), "serving with two processes"):
                own, points = points[: len(ENDS)], points[len(ENDS) :]
                for point, end in zip(own, ends, strict=True):
                    counted_bytes = _counted_bytes(model.spec, prompt_tokens, point.kernel)
                    beside_bytes = end["beside_bytes"] - counted_bytes
                    yield Served(point, Timing(**end["timing"]), beside_bytes)


def _counted_bytes(spec: ModelSpec, prompt_tokens: int, end: str) -> int:
    """Return the bytes beside weights and KV cache that a plan counts of such a stage."""
    logits_bytes = sampled_logits_bytes(spec, ROWS) if end == LAST else 0
    return batch_temporaries_bytes(spec, ROWS * prompt_tokens) + logits_bytes


def _lengths(spec: ModelSpec, rounds: int) -> tuple[int, int]:
    """Return the prompt and output tokens of each sequence."""
    rounds = min(rounds, spec.max_positions // 2)
    return min(PROMPT_TOKENS, spec.max_positions - rounds), rounds

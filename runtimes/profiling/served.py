"""Which visits of a real pipeline are timed, so that what its parts leave out is known?"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

from llmpq_sim.model import ModelSpec
from runtimes.profiling.points import Point
from runtimes.profiling.processor import Target, stage_cores
from runtimes.profiling.task import Task
from runtimes.profiling.timing import Timing
from runtimes.profiling.workers import answers, workers
from runtimes.torch_pipeline.loading import DTYPE_NAMES

WORKER = "runtimes.profiling.served_worker"

ENDS = ("first", "last")
ROWS, LAYERS = 4, 2
PROMPT_TOKENS, ROUNDS = 64, 40
"""Of each sequence; fewer where the model takes no such contexts."""


def serves_here(target: Target) -> bool:
    """Return whether two stages of as many cores as the target has can be at work here."""
    return target.device.type == "cpu" and len(target.all_cores) >= 2 * target.threads


def served_points(spec: ModelSpec, formats: tuple[str, ...]) -> tuple[Point, ...]:
    """Return decode visits of both ends of a model, for each format."""
    prompt_tokens, rounds = _lengths(spec)
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


def served_timings(
    points: tuple[Point, ...], task: Task, dense_from_tokens: Mapping[str, int]
) -> Iterator[tuple[Point, Timing]]:
    """Yield the time of each visit, both ends of a format one after the other.

    Args:
        points: both ends of some formats.
        task: the profile.
        dense_from_tokens: by format, tokens from which weights are decoded beforehand.

    Raises:
        ExecutionError: one of the processes failed.
    """
    model = next(iter(task.models.values()))
    formats = tuple(dict.fromkeys(point.quant for point in points))
    prompt_tokens, rounds = _lengths(model.spec)
    with tempfile.TemporaryDirectory() as folder:
        shared = {
            "rendezvous": str(Path(folder) / "rendezvous"),
            "model": task.settings.models[0],
            "formats": formats,
            "dtype": DTYPE_NAMES[task.dtype],
            "threads": task.target.threads,
            "layers": min(LAYERS, model.spec.layers),
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
            for timings in answers(started, len(formats), "serving with two processes"):
                own = points[: len(ENDS)]
                points = points[len(ENDS) :]
                yield from zip(own, (Timing(**each) for each in timings), strict=True)


def _lengths(spec: ModelSpec) -> tuple[int, int]:
    """Return the prompt and output tokens of each sequence."""
    rounds = min(ROUNDS, spec.max_positions // 2)
    return min(PROMPT_TOKENS, spec.max_positions - rounds), rounds

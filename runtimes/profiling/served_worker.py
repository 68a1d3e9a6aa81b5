"""Worker of the in-pipeline calibration: steps beside their parts alone.

Two processes serve a few sequences with the first and the last layers of a model, as a deployment
does. Visits then take other times than their layers and their end were timed alone: messages come
and go on the same core, the other core is at work on the same memory, and each part finds caches
and freed memory as the others left them.
"""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from itertools import groupby
from operator import itemgetter
from typing import Any

import torch
from torch import distributed

from llmpq_sim.core.plan import MicroBatching
from runtimes.base import TokenRequest
from runtimes.profiling.conditions import Conditions
from runtimes.profiling.layers import random_cut
from runtimes.profiling.processor import find_target
from runtimes.profiling.profiled_models import ProfiledModel, load_profiled
from runtimes.profiling.timing import Timing, timing_of
from runtimes.profiling.two_ends import FIRST, serve_as_end
from runtimes.torch_pipeline.engine.architecture import Shard, ShardModel, connect
from runtimes.torch_pipeline.engine.attention import StageState
from runtimes.torch_pipeline.engine.cache_shapes import CacheShape, empty_cache
from runtimes.torch_pipeline.engine.records import RunRecord, StageRecord
from runtimes.torch_pipeline.engine.stage import Stage
from runtimes.torch_pipeline.processes.host_memory import PeakMemory, pin
from runtimes.torch_pipeline.weights.linear import KernelChoice
from runtimes.torch_pipeline.weights.loading import DTYPES, WeightSettings, release_freed_memory

GROUPS = 2
"""Micro-batches in flight: one for each stage to be at work."""

BATCHES = 2
WARM_UP_TOKENS = 3
"""Of each sequence of the batch that goes before."""


def main(text: str) -> None:
    """Serve with the other end; the first prints what both took, a line for each pipeline.

    The line is an empty list where steps take too long.

    Args:
        text: the task as JSON: see ``served``.
    """
    task = json.loads(text)
    pin(tuple(task["cores"]))
    distributed.init_process_group(
        "gloo", init_method=f"file://{task['rendezvous']}", rank=task["rank"], world_size=2
    )
    with torch.inference_mode():
        for _, alike in groupby(task["pipelines"], itemgetter("model", "format_name", "is_dense")):
            _serve_alike(list(alike), task)
            release_freed_memory()
    distributed.destroy_process_group()


def _serve_alike(pipelines: list[dict[str, Any]], task: Mapping[str, Any]) -> None:
    """Serve with pipelines that differ in depth alone, the deepest first: it is cut shorter."""
    model = load_profiled(task["models"][pipelines[0]["model"]])
    built, settings = _built(model, pipelines[0], task)
    for pipeline in pipelines:
        del built.layers[pipeline["layers"][task["rank"]] :]
        built.model.config.num_hidden_layers = len(built.layers)
        release_freed_memory()
        ends = pipeline_steps(_end(built, settings, pipeline, task), pipeline, task)
        if task["rank"] == FIRST:
            sys.stdout.write(json.dumps([asdict(end) for end in ends or ()]) + "\n")
            sys.stdout.flush()


@dataclass(frozen=True)
class ServedEnd:
    """What one end of a pipeline took.

    Attributes:
        decode, prefill: its steps.
        beside_bytes: memory beside the weights and the KV cache.
    """

    decode: Timing
    prefill: Timing
    beside_bytes: int


@dataclass(frozen=True)
class End:
    """An end of a pipeline.

    Attributes:
        stage: what it computes.
        held_bytes: of its weights and its KV cache.
    """

    stage: Stage
    held_bytes: int


def pipeline_steps(
    end: End, pipeline: Mapping[str, Any], task: Mapping[str, Any]
) -> tuple[ServedEnd, ServedEnd] | None:
    """Return what the first and the last end took; known at the first.

    None also where decode steps take too long to be timed: a few tell, before all are served. The
    first calls of a process, which take longer, are among these.
    """
    rows, prompt = task["rows"], (0,) * pipeline["prompt_tokens"]
    few = _requests(rows, prompt, WARM_UP_TOKENS)
    warm = _served(end, few, task)
    slowest_s = max(one.decode.median_s for one in warm) if warm else 0.0
    verdict = torch.tensor(slowest_s, dtype=torch.float64)
    distributed.broadcast(verdict, FIRST)
    if verdict > task["longest_visit_s"]:
        return None
    return _served(end, _requests(BATCHES * rows, prompt, pipeline["rounds"]), task)


def _requests(count: int, prompt: tuple[int, ...], tokens: int) -> tuple[TokenRequest, ...]:
    """Return so many requests for each micro-batch in flight."""
    return tuple(
        TokenRequest(f"served-{number}", prompt, tokens) for number in range(GROUPS * count)
    )


def _served(
    end: End, requests: tuple[TokenRequest, ...], task: Mapping[str, Any]
) -> tuple[ServedEnd, ServedEnd] | None:
    """Serve requests; return what both ends took at the first, nothing at the last."""
    memory = PeakMemory(end.stage.device)
    distributed.barrier()
    memory.start()
    batching = MicroBatching(task["rows"], task["rows"], GROUPS)
    served = serve_as_end(end.stage, task["rank"], requests, batching, memory, end.held_bytes)
    if served is None:
        return None
    run, first, last = served
    return _timed(first, run), _timed(last, run)


def _timed(record: StageRecord, run: RunRecord) -> ServedEnd:
    times_s: dict[bool, list[float]] = {True: [], False: []}
    for (decodes, *_), began_s, ended_s in zip(
        run.steps, record.began_s, record.ended_s, strict=True
    ):
        times_s[decodes > 0].append(ended_s - began_s)
    return ServedEnd(timing_of(times_s[True]), timing_of(times_s[False]), record.peak_bytes)


def _built(
    model: ProfiledModel, pipeline: Mapping[str, Any], task: Mapping[str, Any]
) -> tuple[ShardModel, WeightSettings]:
    """Return the layers of this end with random weights."""
    choice = KernelChoice.dense_only().dense_from_tokens
    conditions = Conditions(
        find_target("cpu", task["threads"]),
        DTYPES[task["dtype"]],
        {model.spec.name: model},
        choice if pipeline["is_dense"] else task["dense_from_tokens"],
    )
    is_first = task["rank"] == FIRST
    shard = Shard(0, pipeline["layers"][task["rank"]], is_first=is_first, is_last=not is_first)
    return random_cut(model, shard, pipeline["format_name"], conditions)


def _end(
    built: ShardModel,
    settings: WeightSettings,
    pipeline: Mapping[str, Any],
    task: Mapping[str, Any],
) -> End:
    """Return the stage of this end with an empty cache."""
    layers, is_first = len(built.layers), task["rank"] == FIRST
    context_tokens = pipeline["prompt_tokens"] + pipeline["rounds"]
    shape = CacheShape(GROUPS * task["rows"], context_tokens)
    cache = empty_cache(built.model.config, shape, settings.dtype, settings.device)
    state = StageState(cache)
    connect(built, state, settings.device)
    tensors = [*built.model.parameters(), *built.model.buffers(), *cache.layers]
    held_bytes = sum(tensor.nbytes for tensor in tensors if not tensor.is_meta)
    shard = Shard(0, layers, is_first=is_first, is_last=not is_first)
    return End(Stage(shard, built.model, state, settings), held_bytes)


if __name__ == "__main__":
    main(sys.argv[1])
    sys.stdout.flush()
    os._exit(0)  # threads of gloo may outlive the interpreter and abort it

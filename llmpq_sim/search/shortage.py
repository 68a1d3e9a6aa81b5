"""Shortage of a plan in the user's terms: what its fullest stage holds, and what would fit."""

from collections.abc import Iterator
from dataclasses import replace

from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.memory import StageMemory
from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.core.units import gib
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.grid import chunk_sizes
from llmpq_sim.search.scoring import PlanScore, fits


def why_infeasible(score: PlanScore, task: PlanningTask) -> str | None:
    """Return why a plan is not feasible, or None; memory that is short by purpose, with advice.

    Advice is what costs least: smaller chunks of prompts, then fewer requests at once, then lower
    weight formats; each was checked to fit.
    """
    reason = score.infeasible_reason()
    if reason is None or score.fits:
        return reason
    stage = next(each for each in score.memory if not each.fits)
    return f"{reason} ({held_text(stage)}){_advice(score.plan, task)}"


def held_text(stage: StageMemory) -> str:
    """Return what a stage holds, by purpose."""
    parts = (
        (stage.weights_bytes, "weights"),
        (stage.ends_bytes, "embedding and LM head"),
        (stage.kv_bytes, "KV cache"),
        (stage.temporaries_bytes, "temporaries"),
        (stage.runtime_bytes, "runtime"),
    )
    held = [f"{gib(size_bytes)} of {purpose}" for size_bytes, purpose in parts if size_bytes]
    return ", ".join(held).replace(" of", " GiB of", 1)


def _advice(plan: Plan, task: PlanningTask) -> str:
    """Return the first change that makes a plan fit, or nothing."""
    workload = task.costs.scenario.workload
    chunks = chunk_sizes(workload.prompt_tokens)
    now = plan.micro_batching.chunks(workload.prompt_tokens)[0]
    for tokens in reversed(chunks):
        smaller = replace(plan.micro_batching, chunk_tokens=tokens)
        if tokens < now and fits(replace(plan, micro_batching=smaller), task):
            return f"; chunks of {tokens} prompt tokens would fit (prefill_chunk_tokens)"
    least_chunk = min([now, *chunks[:1]])
    chunk_tokens = least_chunk if least_chunk < workload.prompt_tokens else None
    cut = f" in chunks of {chunk_tokens} prompt tokens" if chunk_tokens else ""
    for fewer in _fewer(plan.micro_batching, workload.requests, chunk_tokens):
        if fits(replace(plan, micro_batching=fewer), task):
            return f"; {fewer.wave_rows(workload.requests)} requests at once{cut} would fit"
    least = MicroBatching(1, 1, 1, chunk_tokens)
    for name in _lower_formats(plan, task):
        lowered = tuple(
            replace(stage, formats=tuple(_lower(each, name) for each in stage.formats))
            for stage in plan.stages
        )
        if fits(Plan(lowered, least), task):
            return f"; one request at a time{cut} would fit at {name} or less"
    return ""


def _fewer(
    batching: MicroBatching, requests: int, chunk_tokens: int | None
) -> Iterator[MicroBatching]:
    """Yield micro-batchings with ever fewer requests in flight, each half of the one before."""
    rows = batching.wave_rows(requests) // 2
    while rows:
        yield MicroBatching(
            1, min(batching.decode, rows), max(rows // batching.decode, 1), chunk_tokens
        )
        rows //= 2


def _lower_formats(plan: Plan, task: PlanningTask) -> list[str]:
    """Return the formats of fewer bits than a plan's widest that its devices run, widest first."""
    cluster = task.costs.scenario.cluster
    devices = [cluster.devices[cluster.index(stage.device, "plan")].device for stage in plan.stages]
    widest = max(FORMATS[name].stored_bits for name in plan.layer_formats)
    lower = [
        name
        for name, each in FORMATS.items()
        if each.stored_bits < widest and all(name in device.formats for device in devices)
    ]
    return sorted(lower, key=lambda name: -FORMATS[name].stored_bits)


def _lower(name: str, most: str) -> str:
    """Return a format, or another one where that has more bits."""
    return most if FORMATS[name].stored_bits > FORMATS[most].stored_bits else name

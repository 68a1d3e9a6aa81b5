"""Report of what fits a plan at once."""

from typing import TYPE_CHECKING, Any

from rich.console import Console

from llmpq_sim.core.capacity import Capacity
from llmpq_sim.core.units import GIB
from llmpq_sim.report.console import (
    folded_lines,
    new_table,
    paragraph,
    plain,
    print_to,
    width_of,
)
from llmpq_sim.report.formatting import counted, joined

if TYPE_CHECKING:
    from llmpq_sim.simulator.continuous.service import Service

CAPACITY_SCHEMA = "llmpq/capacity"
VERSION = 1


def capacity_parts(capacity: Capacity) -> list[str]:
    """Return what fits, in words: KV tokens, requests of the longest kind, the longest one."""
    longest = capacity.longest_context_tokens
    return [
        counted(capacity.kv_tokens, "KV token"),
        f"{counted(capacity.sequences, 'request')} of {capacity.context_tokens} tokens at once",
        f"longest context {longest} tokens" if longest else "not one request of any length",
    ]


def capacity_content(capacity: Capacity) -> dict[str, Any]:
    """Return what fits as plain data."""
    return {
        "kv_tokens": capacity.kv_tokens,
        "context_tokens": capacity.context_tokens,
        "sequences": capacity.sequences,
        "mean_context_tokens": capacity.mean_context_tokens,
        "mean_sequences": capacity.mean_sequences,
        "users": capacity.users,
        "longest_context_tokens": capacity.longest_context_tokens,
        "longest_contexts": [
            {"sequences": count, "context_tokens": tokens}
            for count, tokens in capacity.longest_contexts
        ],
        "stages": [
            {"device": stage.device, "kv_bytes": stage.kv_bytes, "kv_tokens": stage.kv_tokens}
            for stage in capacity.stages
        ],
    }


def crowd_sentences(service: "Service", capacity: Capacity) -> list[str]:
    """Return what to say where a closed loop has more in flight than are served at once."""
    users = service.workload.concurrency
    admitted, fit = service.settings.sequence_limit, capacity.mean_sequences
    if users is None or users <= min(admitted, fit) or not service.result.finished:
        return []
    if admitted < fit:
        limit = f"{counted(admitted, 'request')} at once by --sequence-limit"
    else:
        mean = capacity.mean_context_tokens
        limit = f"room for {counted(fit, 'request')} of {mean} tokens, the mean, in the KV cache"
    return [f"Of {users} in flight some wait: {limit}."]


def show_capacity(console: Console, capacity: Capacity) -> None:
    """Write what fits a plan at once, by stage and by number of sequences."""
    width = width_of(console)
    print_to(console, folded_lines(capacity_parts(capacity), width, "bold"))
    stages = new_table("stage", "device", "room for KV", "tokens", right=("room for KV", "tokens"))
    for number, stage in enumerate(capacity.stages):
        room = f"{stage.kv_bytes / GIB:.1f} GiB"
        stages.add_row(str(number), plain(stage.device), room, str(stage.kv_tokens))
    print_to(console, "", stages)
    columns = ("requests at once", "longest context")
    contexts = new_table(*columns, right=columns)
    for count, tokens in capacity.longest_contexts:
        contexts.add_row(str(count), f"{tokens} tokens" if tokens else "none fits")
    print_to(console, "", contexts)
    tight = [one.device for one in capacity.stages if one.kv_tokens == capacity.kv_tokens]
    sentence = (
        f"Up to {counted(capacity.users, 'user')} with a request of {capacity.context_tokens} "
        f"tokens each in flight are served without waiting for room."
    )
    if len(capacity.stages) > 1:
        sentence += f" The tightest of the stages: {joined(tight)}."
    print_to(console, "", paragraph(sentence, width))

"""Capacity of a service: what its blocks of KV cache hold at once."""

from math import ceil

from llmpq_sim.core.caches import stage_caches
from llmpq_sim.core.capacity import BlockRoom, Capacity, StageRoom, capacity_of
from llmpq_sim.core.cluster import Cluster
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.plan import Plan
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.simulator.continuous.compilation import service_room, stage_fixed_bytes
from llmpq_sim.simulator.continuous.service import Service
from llmpq_sim.simulator.continuous.settings import ContinuousSettings


def block_room(
    plan: Plan, model: ModelSpec, cluster: Cluster, settings: ContinuousSettings
) -> BlockRoom:
    """Return the room of a service: the blocks by which requests are admitted and refused."""
    room = service_room(plan, model, cluster, settings)
    caches = stage_caches(plan, model, settings.longest_context_tokens)
    stages = []
    for number, (stage, cached) in enumerate(zip(plan.stages, caches, strict=True)):
        if room.bounded_blocks:
            place = cluster.index(stage.device, f"plan.stages[{number}].device")
            taken_bytes = stage_fixed_bytes(plan, model, cluster, settings)[number]
            kv_bytes = max(cluster.devices[place].device.memory_bytes - taken_bytes, 0)
            kv_tokens = cached.room_tokens(kv_bytes)
        else:
            kv_bytes = room.blocks[number] * cached.growing_bytes(settings.block_tokens)
            kv_tokens = room.blocks[number] * settings.block_tokens
        stages.append(StageRoom(stage.device, kv_bytes, kv_tokens))
    return BlockRoom(tuple(stages), settings.block_tokens, settings.longest_context_tokens, room)


def service_capacity(service: Service) -> Capacity:
    """Return what fits a service at once, of its workload's longest and mean requests."""
    costs = service.costs
    room = block_room(service.plan, costs.model, costs.cluster, service.settings)
    return trace_capacity(room, service.workload, service.settings)


def trace_capacity(
    room: BlockRoom,
    workload: TraceWorkload,
    settings: ContinuousSettings,
    context_tokens: int | None = None,
    sequences: int | None = None,
) -> Capacity:
    """Return what fits a room at once.

    Args:
        room: blocks of a service.
        workload: whose longest and mean contexts are counted.
        settings: how many the scheduler admits.
        context_tokens: another length to count sequences of.
        sequences: see `capacity_of`.
    """
    contexts = workload.context_tokens
    return capacity_of(
        room,
        context_tokens or int(contexts.max()),
        ceil(float(contexts.mean())),
        most_admitted=settings.sequence_limit,
        sequences=sequences,
    )

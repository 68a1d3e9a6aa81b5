"""Compilation of a plan into tables for continuous batching."""

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from itertools import pairwise
from math import ceil, log
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.caches import KvRoom, keeps_all_tokens, kv_room, stage_caches
from llmpq_sim.core.cluster import Cluster, Link
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.memory import (
    StageMemory,
    batch_temporaries_bytes,
    ends_bytes,
    layers_weight_bytes,
    sampled_logits_bytes,
)
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.plan import Plan
from llmpq_sim.latency.costs import embeddings_s, heads_s, mixer_s, products_s
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.simulator.continuous.mixed_costs import Pipeline, StageTables
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from llmpq_sim.simulator.static.simulate import HIDDEN_BYTES, TOKEN_BYTES

FloatArray = NDArray[np.float64]

DENSE_TOKENS = 256
"""Up to so many tokens every count is evaluated."""

TILE_TOKENS = 64
"""Beyond, both sides of each multiple of it: kernels work in tiles of 64 or 128 rows, and their
times step there. Between knots times are interpolated linearly."""

CONTEXT_SEGMENTS = 128
"""Decode attention is linear in the context on about so many segments."""

DENSE_ROWS = 32
ROW_RATIO = 1.08
"""Sequences at which decode attention is evaluated: all up to 32, then in steps of 8 %."""


TABLE_RATIO = 4
"""Tables reach to a power of it: what a search asks of shares a few, whatever its limits."""

KEPT = 64
"""Tables of costs, and lists of them by stage, that are kept of each."""

Table = TypeVar("Table")


class ServingCosts:
    """Seconds of the building blocks of a model on each kind of device, computed once each.

    Attributes:
        model: what is served.
        cluster: what it is served on.
        profiles: latency profile of each kind of device, by the kind's name.
    """

    def __init__(
        self, model: ModelSpec, cluster: Cluster, profiles: Mapping[str, DeviceProfile]
    ) -> None:
        self.model = model
        self.cluster = cluster
        self.profiles = dict(profiles)
        self._tables: dict[tuple[Any, ...], FloatArray] = {}
        self._lists: dict[tuple[Any, ...], list[float]] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process is sent: it makes the tables that it needs."""
        return vars(self) | {"_tables": {}, "_lists": {}}

    def products_s(
        self, kind: str, format_name: str, most_tokens: int, layer_kind: int
    ) -> FloatArray:
        """Return the time of one layer without its mixer by tokens, from 0 to the most."""

        def filled() -> FloatArray:
            knots, layer = token_knots(most_tokens), self.model.kinds[layer_kind]
            at_knots = products_s(layer, self.profiles[kind], format_name, knots)
            return _filled(most_tokens, knots, at_knots)

        return _kept(self._tables, ("products", kind, format_name, most_tokens, layer_kind), filled)

    def prompts_s(self, kind: str, most_tokens: int, layer_kind: int) -> FloatArray:
        """Return the time of one layer's mixer in prefill by prompt tokens, from 0."""

        def filled() -> FloatArray:
            knots, layer = token_knots(most_tokens), self.model.kinds[layer_kind]
            at_knots = mixer_s(layer, self.profiles[kind], "prefill", np.ones_like(knots), knots)
            return _filled(most_tokens, knots, at_knots)

        return _kept(self._tables, ("prompts", kind, most_tokens, layer_kind), filled)

    def decodes_s(
        self, kind: str, most_rows: int, contexts: FloatArray, layer_kind: int
    ) -> FloatArray:
        """Return one layer's mixer in decode by sequences and context, (rows + 1, contexts)."""

        def filled() -> FloatArray:
            knots, layer = row_knots(most_rows), self.model.kinds[layer_kind]
            rows, tokens = np.meshgrid(knots, np.maximum(contexts, 1.0), indexing="ij")
            at_knots = mixer_s(layer, self.profiles[kind], "decode", rows, tokens)
            columns = [_filled(most_rows, knots, column) for column in at_knots.T]
            return np.stack(columns, axis=1)

        key = ("decodes", kind, most_rows, *contexts[[1, -1]].tolist(), layer_kind)
        return _kept(self._tables, key, filled)

    def stage_prompts_s(self, kind: str, layers: tuple[int, ...], most_tokens: int) -> list[float]:
        """Return the time of the mixers of so many layers of each kind by prompt tokens, from 0."""

        def listed() -> list[float]:
            total_s = np.zeros(most_tokens + 1)
            for number, count in enumerate(layers):
                if count:
                    total_s += count * self.prompts_s(kind, most_tokens, number)
            return list(total_s.tolist())

        return _kept(self._lists, ("prompts", kind, layers, most_tokens), listed)

    def stage_decodes_s(
        self, kind: str, layers: tuple[int, ...], most_rows: int, contexts: FloatArray
    ) -> FloatArray:
        """Return the time of the mixers of so many layers of each kind, (rows + 1, contexts)."""
        total_s = np.zeros((most_rows + 1, len(contexts)))
        for number, count in enumerate(layers):
            if count:
                total_s += count * self.decodes_s(kind, most_rows, contexts, number)
        return total_s

    def stage_tokens_s(
        self, kind: str, layers: Counter[tuple[int, str]], most_tokens: int, *, is_first: bool
    ) -> list[float]:
        """Return the time of a stage without mixers by tokens of a batch, from 0.

        Args:
            kind: of the device.
            layers: how many of the stage's layers are of each kind in each format.
            most_tokens: of a batch.
            is_first: whether the stage looks up the embedding.
        """

        def listed() -> list[float]:
            profile, total_s = self.profiles[kind], np.zeros(most_tokens + 1)
            for (layer_kind, name), count in layers.items():
                total_s += count * self.products_s(kind, name, most_tokens, layer_kind)
            total_s[1:] += profile.step_overhead_s
            if is_first:
                tokens = np.arange(most_tokens + 1, dtype=float)
                total_s[1:] += embeddings_s(self.model, profile, tokens)[1:]
            return list(total_s.tolist())

        key = ("tokens", kind, tuple(layers.items()), most_tokens, is_first)
        return _kept(self._lists, key, listed)

    def samples_s(self, kind: str, most_rows: int, *, is_last: bool) -> list[float]:
        """Return the time of the LM head by tokens sampled, from 0; none but on the last stage."""

        def listed() -> list[float]:
            if not is_last:
                return [0.0] * (most_rows + 1)
            knots = token_knots(most_rows)
            at_knots = heads_s(self.model, self.profiles[kind], knots)
            return list(_filled(most_rows, knots, at_knots).tolist())

        return _kept(self._lists, ("samples", kind, most_rows, is_last), listed)

    def transfers_s(self, link: Link | None, most_units: int, unit_bytes: int) -> list[float]:
        """Return the time on a link by units sent, from 0; of none where there is no link."""

        def listed() -> list[float]:
            units = range(most_units + 1)
            return [0.0 if link is None else link.transfer_s(each * unit_bytes) for each in units]

        return _kept(self._lists, ("transfers", link, most_units, unit_bytes), listed)


def compile_pipeline(plan: Plan, costs: ServingCosts, settings: ContinuousSettings) -> Pipeline:
    """Return the tables of a plan: all that a simulation reads of model, devices and links.

    Args:
        plan: stages whose layers are all of the model's, on devices of the cluster; its
            micro-batches play no part.
        costs: block times.
        settings: how large batches and contexts may become.

    Raises:
        InputError: more batches are to be under way than there are stages, or prefixes are to be
            cached of a model whose layers do not keep every token.
    """
    settings.most_in_flight(len(plan.stages))
    if settings.prefix_caching and not keeps_all_tokens(
        costs.model, settings.longest_context_tokens
    ):
        raise InputError(
            f"prefix_caching: {costs.model.name} has layers with a window or a recurrent state, "
            "which are not kept as they were at the end of a prefix; turn it off with "
            "--no-prefix-caching"
        )
    step = knot_tokens(settings.longest_context_tokens)
    links = _links(plan, costs.cluster)
    stages: list[StageTables] = []
    last = len(plan.stages) - 1
    alike: dict[object, StageTables] = {}
    for number, stage in enumerate(plan.stages):
        kind = costs.cluster.devices[costs.cluster.index(stage.device, "plan")].device.name
        layers = _stage_layers(plan, number, costs.model)
        key = (kind, tuple(layers.items()), links[number], number == 0, number == last)
        if key not in alike:
            alike[key] = _stage_tables(plan, number, costs, settings, links[number])
        stages.append(alike[key])
    room = service_room(plan, costs.model, costs.cluster, settings)
    return Pipeline(tuple(stages), step, room.blocks, room.bounded_blocks)


def knot_tokens(longest_context_tokens: int) -> int:
    """Return the power of two that cuts the contexts into at most CONTEXT_SEGMENTS segments."""
    step = 1
    while step * CONTEXT_SEGMENTS < longest_context_tokens:
        step *= 2
    return step


def token_knots(most_tokens: int) -> FloatArray:
    """Return the token counts at which a table is evaluated, from 1 to the most or just beyond.

    They do not depend on the most, so that a batch takes the same time whatever the token budget.
    """
    dense = np.arange(1, min(DENSE_TOKENS, most_tokens) + 1)
    tiles = np.arange(DENSE_TOKENS, most_tokens + TILE_TOKENS, TILE_TOKENS)
    tiles = tiles if most_tokens > DENSE_TOKENS else tiles[:0]
    return np.unique(np.concatenate([dense, tiles, tiles[:-1] + 1])).astype(float)


def row_knots(most_rows: int) -> FloatArray:
    """Return the numbers of sequences at which decode attention is evaluated, as `token_knots`."""
    dense = np.arange(1, min(DENSE_ROWS, most_rows) + 1)
    steps = max(ceil(log(most_rows / DENSE_ROWS) / log(ROW_RATIO)) + 1, 0)
    sparse = (DENSE_ROWS * ROW_RATIO ** np.arange(1, steps + 1)).round()
    needed = int(np.searchsorted(sparse, most_rows)) + 1 if most_rows > DENSE_ROWS else 0
    return np.concatenate([dense, sparse[:needed]]).astype(float)


def stage_blocks(
    plan: Plan, model: ModelSpec, cluster: Cluster, settings: ContinuousSettings
) -> tuple[int, ...]:
    """Return the KV blocks that each stage has room for; none where not even weights fit."""
    return service_room(plan, model, cluster, settings).blocks


def service_room(
    plan: Plan, model: ModelSpec, cluster: Cluster, settings: ContinuousSettings
) -> KvRoom:
    """Return the KV blocks that each stage has room for; none where not even weights fit.

    What is left beside weights, embedding or head, the runtime, and activations and logits of the
    largest batch is cut into blocks of ``block_tokens`` tokens of all its layers; windows and
    recurrent states take blocks of a sequence.
    """
    caches = stage_caches(plan, model, settings.longest_context_tokens)
    room_bytes = [max(stage.free_bytes, 0) for stage in _memory(plan, model, cluster, settings)]
    return kv_room(caches, room_bytes, settings.block_tokens)


def stage_fixed_bytes(
    plan: Plan, model: ModelSpec, cluster: Cluster, settings: ContinuousSettings
) -> tuple[int, ...]:
    """Return the bytes that each stage takes beside its KV cache."""
    return tuple(stage.total_bytes for stage in _memory(plan, model, cluster, settings))


def stage_memory(
    plan: Plan, model: ModelSpec, cluster: Cluster, settings: ContinuousSettings, blocks: int
) -> tuple[StageMemory, ...]:
    """Return the memory of each stage with so many blocks of KV cache, at the most.

    Where sequences take blocks beside those of their tokens, it depends on their lengths what is in
    so many blocks.
    """
    memory = _memory(plan, model, cluster, settings)
    caches = stage_caches(plan, model, settings.longest_context_tokens)
    room = kv_room(caches, [max(each.free_bytes, 0) for each in memory], settings.block_tokens)
    return tuple(
        replace(each, kv_bytes=room.most_bytes(cached, settings.block_tokens, blocks))
        for each, cached in zip(memory, caches, strict=True)
    )


def _memory(
    plan: Plan, model: ModelSpec, cluster: Cluster, settings: ContinuousSettings
) -> list[StageMemory]:
    """Return the memory of each stage without any KV cache."""
    temporaries = batch_temporaries_bytes(model, settings.token_budget)
    logits = sampled_logits_bytes(model, settings.sequence_limit)
    stages = []
    last = len(plan.stages) - 1
    for number, (stage, first) in enumerate(zip(plan.stages, plan.first_layers(), strict=True)):
        position = cluster.index(stage.device, f"plan.stages[{number}].device")
        device = cluster.devices[position].device
        stages.append(
            StageMemory(
                weights_bytes=layers_weight_bytes(model, first, stage.formats),
                kv_bytes=0,
                ends_bytes=ends_bytes(model, number == 0, number == last),
                temporaries_bytes=temporaries + (number == last) * logits,
                runtime_bytes=device.runtime_bytes,
                limit_bytes=device.memory_bytes,
            )
        )
    return stages


def _stage_tables(
    plan: Plan, number: int, costs: ServingCosts, settings: ContinuousSettings, link: Link | None
) -> StageTables:
    stage, longest = plan.stages[number], settings.longest_context_tokens
    position = costs.cluster.index(stage.device, f"plan.stages[{number}].device")
    kind = costs.cluster.devices[position].device.name
    is_last = number == len(plan.stages) - 1
    tokens, rows = _table_size(settings.token_budget), _table_size(settings.sequence_limit)
    step = knot_tokens(longest)
    first = plan.first_layers()[number]
    layers = costs.model.count_kinds(first, first + len(stage.formats))
    in_formats = _stage_layers(plan, number, costs.model)
    contexts: FloatArray = np.arange(longest // step + 2, dtype=np.float64) * step
    units = (rows, TOKEN_BYTES) if is_last else (tokens, HIDDEN_BYTES * costs.model.hidden_size)
    return StageTables(
        tokens_s=costs.stage_tokens_s(kind, in_formats, tokens, is_first=number == 0),
        samples_s=costs.samples_s(kind, rows, is_last=is_last),
        prompt_s=costs.stage_prompts_s(kind, layers, longest),
        decode_s=costs.stage_decodes_s(kind, layers, rows, contexts),
        transfer_s=costs.transfers_s(link, *units),
    )


def _table_size(most: int) -> int:
    """Return how far a table reaches that is asked of up to a limit."""
    size = TABLE_RATIO
    while size < most:
        size *= TABLE_RATIO
    return size


def _stage_layers(plan: Plan, number: int, model: ModelSpec) -> Counter[tuple[int, str]]:
    """Return how many layers of a stage are of each kind in each format."""
    formats, first = plan.stages[number].formats, plan.first_layers()[number]
    numbers = model.kind_of_layer[first : first + len(formats)]
    return Counter(zip(numbers, formats, strict=True))


def _kept(
    kept: dict[tuple[Any, ...], Table], key: tuple[Any, ...], made: Callable[[], Table]
) -> Table:
    """Return what is kept by a key, made if it is not there; the oldest gives way."""
    if key not in kept:
        value = made()
        while len(kept) >= KEPT:
            del kept[next(iter(kept))]
        kept[key] = value
    return kept[key]


def _links(plan: Plan, cluster: Cluster) -> list[Link | None]:
    places = [cluster.index(stage.device, "plan") for stage in plan.stages]
    if len(places) == 1:
        return [None]
    return [cluster.link(*pair) for pair in pairwise([*places, places[0]])]


def _filled(most: int, knots: FloatArray, at_knots: FloatArray) -> FloatArray:
    """Return a table from 0 to the most, 0 at 0 and linear between knots."""
    values = np.interp(np.arange(most + 1), knots, at_knots)
    values[0] = 0.0
    return values

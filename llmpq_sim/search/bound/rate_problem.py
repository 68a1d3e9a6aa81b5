"""Problem of the highest rate: where layers may be, what they take of time, memory and quality."""

from dataclasses import dataclass
from itertools import product
from math import floor

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.limits import MOST_SEQUENCES
from llmpq_sim.core.memory import (
    batch_temporaries_bytes,
    embedding_bytes,
    head_bytes,
    layer_weight_bytes,
    sampled_logits_bytes,
)
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.search.bound.problem import (
    BlockItem,
    BlockPlace,
    PlanningTask,
    block_items,
    kinds_of,
)
from llmpq_sim.search.bound.rate_work import (
    BlockWork,
    attention_work,
    embedding_work,
    head_work,
    layer_work,
)
from llmpq_sim.search.bound.rate_workload import RateWorkload, rate_workload
from llmpq_sim.search.bound.schedule_terms import EMBEDDING, HEAD

FloatArray = NDArray[np.float64]

Choice = tuple[int, int, int]
"""A block at a place in a format."""


@dataclass(frozen=True)
class RateProblem:
    """What a limit on the rate is proven from.

    Attributes:
        places: kinds of device.
        capacity_bytes: what one of each has beside the runtime and the least temporaries.
        formats: names of the allowed formats.
        items: the blocks to place.
        block_bytes: of a block without KV cache. Shape: (blocks, formats).
        kv_bytes: of a token of a layer of each kind, at least. Shape: (kinds,).
        budget: largest allowed quality loss.
        workload: what is asked.
        works: least seconds by block, place and format; of embedding and head in the first one.
        least_tokens, most_tokens: what the KV cache of a plan can hold, to serve all requests.
    """

    places: tuple[BlockPlace, ...]
    capacity_bytes: FloatArray
    formats: tuple[str, ...]
    items: tuple[BlockItem, ...]
    block_bytes: FloatArray
    kv_bytes: FloatArray
    budget: float
    workload: RateWorkload
    works: dict[Choice, BlockWork]
    least_tokens: int
    most_tokens: int

    @property
    def place_counts(self) -> FloatArray:
        """Devices of each place. Shape: (places,)."""
        return np.array([place.count for place in self.places], dtype=float)


def choices(problem: RateProblem) -> list[Choice]:
    """Return block, place and format of everything priced, in the order of the prices."""
    kinds, places = range(len(problem.kv_bytes)), range(len(problem.places))
    layers = list(product(kinds, places, range(len(problem.formats))))
    return [*layers, *((block, place, 0) for block in (EMBEDDING, HEAD) for place in places)]


def workload_of(
    task: PlanningTask, workload: TraceWorkload, *, is_cached: bool = False
) -> RateWorkload | None:
    """Return the sums over those requests that some plan may hold; None where there are none.

    Arguments: see `rate_workload`.
    """
    model = task.costs.scenario.model
    most = min(model.max_positions, _most_tokens(task))
    return rate_workload(workload, most, is_cached=is_cached)


def rate_problem(task: PlanningTask, workload: RateWorkload) -> RateProblem:
    """Return the problem of a task's model, cluster, formats and quality for a workload."""
    model = task.costs.scenario.model
    places = kinds_of(task)
    return RateProblem(
        places=places,
        capacity_bytes=_capacity_bytes(task, places),
        formats=task.formats,
        items=block_items(task, places),
        block_bytes=_block_bytes(task),
        kv_bytes=_token_bytes(model),
        budget=task.allowed_loss,
        workload=workload,
        works=_works(task, places, workload),
        least_tokens=workload.longest_request_tokens,
        most_tokens=max(_most_tokens(task), workload.longest_request_tokens),
    )


def _works(
    task: PlanningTask, places: tuple[BlockPlace, ...], workload: RateWorkload
) -> dict[Choice, BlockWork]:
    model, works = task.costs.scenario.model, {}
    rows = max(min(_most_tokens(task) // workload.shortest_context, MOST_SEQUENCES), 1)
    for place, each in enumerate(places):
        profile, device = task.costs.profiles[each.kind], task.costs.devices[each.kind]
        works[EMBEDDING, place, 0] = embedding_work(model, profile, workload)
        works[HEAD, place, 0] = head_work(model, profile, workload)
        for number, kind in enumerate(model.kinds):
            attention = attention_work(model, kind, profile, workload, rows)
            alike: dict[tuple[str, bool], BlockWork] = {}  # priced as another: its times
            for column, name in enumerate(task.formats):
                if name in device.formats:
                    key = (profile.aliases.get(name, name), FORMATS[name].is_weight_only)
                    if key not in alike:
                        alike[key] = layer_work(
                            kind, profile, name, workload, attention, model.layers
                        )
                    works[number, place, column] = alike[key]
    return works


def _capacity_bytes(task: PlanningTask, places: tuple[BlockPlace, ...]) -> FloatArray:
    taken = batch_temporaries_bytes(task.costs.scenario.model, 1)
    devices = [task.costs.devices[place.kind] for place in places]
    left = [device.memory_bytes - device.runtime_bytes - taken for device in devices]
    return np.asarray(np.maximum(np.array(left, dtype=float), 0.0))


def _block_bytes(task: PlanningTask) -> FloatArray:
    """Return the bytes per block and format without KV cache; a tied matrix counts once."""
    model, width = task.costs.scenario.model, len(task.formats)
    head = head_bytes(model)
    embedding = embedding_bytes(model) - (head if model.tied_embeddings else 0)
    layers = [
        [layer_weight_bytes(kind, FORMATS[name]) for name in task.formats] for kind in model.kinds
    ]
    head += sampled_logits_bytes(model, 1)
    return np.array([*layers, [embedding] * width, [head] * width], dtype=float)


def _token_bytes(model: ModelSpec) -> FloatArray:
    """Return the bytes that each further token of a sequence takes in a layer of each kind.

    There are none where a cache is bounded by a window, or where a state has its own size.
    """
    far = model.max_positions
    grown = [kind.cache_bytes(1, far) - kind.cache_bytes(1, far - 1) for kind in model.kinds]
    return np.array(grown, dtype=float)


def _most_tokens(task: PlanningTask) -> int:
    """Return more tokens than the KV cache of any plan can hold, beside the smallest weights."""
    model, places = task.costs.scenario.model, kinds_of(task)
    block_bytes = _block_bytes(task)
    counts = np.array([place.count for place in places], dtype=float)
    room = float((counts * _capacity_bytes(task, places)).sum())
    of_kinds = np.array(model.layers_by_kind)
    room -= float(of_kinds @ block_bytes[:EMBEDDING].min(axis=1))
    room -= float(block_bytes[EMBEDDING, 0] + block_bytes[HEAD, 0])
    token_bytes = float(of_kinds @ _token_bytes(model))
    if not token_bytes:
        return MOST_SEQUENCES * model.max_positions if room >= 0 else 0
    return max(floor(room / token_bytes), 0)

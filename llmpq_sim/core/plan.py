"""Plan: stages of layers on devices, a format for each layer, and micro-batches."""

from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from math import ceil
from typing import Annotated, Any

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.formats import format_named
from llmpq_sim.core.records import Codec, Key, Place
from llmpq_sim.core.scenario import BatchWorkload, Scenario


@dataclass(frozen=True)
class Stage:
    """Consecutive layers on one device: the format of each, in layer order."""

    device: str
    formats: tuple[str, ...]


@dataclass(frozen=True)
class MicroBatching:
    """How a batch is cut (LLM-PQ, arXiv:2403.01136, sec. 4: micro-batches differ by phase).

    Requests form decode groups of consecutive rows, as equal as can be and of at most ``decode``
    rows. ``groups_in_flight`` groups at a time are a wave: its rows are prefilled in equal
    micro-batches of at most ``prefill`` rows, then decoded in rounds, and the next wave starts
    when the last request of the wave is done. With all groups in flight there is one wave, which
    is the paper's schedule.

    With ``chunk_tokens`` the prompts of a prefill micro-batch are cut into equal consecutive chunks
    of at most so many tokens a row, which follow each other through the stages; None leaves prompts
    whole (Agrawal et al., Sarathi, arXiv:2308.16369, sec. 4.2).
    """

    prefill: Annotated[int, Key("prefill_micro_batch")]
    decode: Annotated[int, Key("decode_micro_batch")]
    groups_in_flight: int
    chunk_tokens: Annotated[int | None, Key("prefill_chunk_tokens"), Place.OPTIONAL] = None

    def within(self, requests: int) -> "MicroBatching":
        """Return the same cuts for a batch of so many requests, which may be a smaller one."""
        decode = min(self.decode, requests)
        groups = min(self.groups_in_flight, ceil(requests / decode))
        return MicroBatching(min(self.prefill, requests), decode, groups, self.chunk_tokens)

    def chunks(self, prompt_tokens: int) -> tuple[int, ...]:
        """Return the tokens of each chunk of a prompt of so many, the largest first."""
        return equal_parts(prompt_tokens, self.chunk_tokens or prompt_tokens)

    def waves(self, requests: int) -> list[tuple[int, ...]]:
        """Return the rows of each group of each wave."""
        groups = equal_parts(requests, self.decode)
        starts = range(0, len(groups), self.groups_in_flight)
        return [groups[start : start + self.groups_in_flight] for start in starts]

    def wave_rows(self, requests: int) -> int:
        """Return the most rows that hold KV cache at once."""
        return max(sum(groups) for groups in self.waves(requests))


def equal_parts(total: int, largest: int) -> tuple[int, ...]:
    """Return a total cut into the fewest parts of at most ``largest``, the larger ones first."""
    parts = ceil(total / largest)
    return tuple(total // parts + (part < total % parts) for part in range(parts))


def _first_layers(stages: tuple[Stage, ...]) -> list[int]:
    return list(accumulate((len(stage.formats) for stage in stages), initial=0))[:-1]


def _write_stages(stages: tuple[Stage, ...]) -> list[dict[str, Any]]:
    return [
        {"device": stage.device, "first_layer": first, "formats": list(stage.formats)}
        for stage, first in zip(stages, _first_layers(stages), strict=True)
    ]


def _read_stages(fields: Fields, key: str) -> tuple[Stage, ...]:
    stages, layer = [], 0
    for each in fields.each(key):
        with each:
            stage = Stage(each.text("device"), each.texts("formats"))
            first = each.integer("first_layer", least=0)
        if first != layer:
            raise InputError(f"{each.where}.first_layer: expected {layer}, got {first}")
        for number, name in enumerate(stage.formats):
            format_named(name, f"{each.where}.formats[{number}]")
        stages.append(stage)
        layer += len(stage.formats)
    return tuple(stages)


@dataclass(frozen=True)
class Plan:
    """A pipeline: stages in order, together all layers of the model, and the micro-batches."""

    stages: Annotated[tuple[Stage, ...], Codec(_read_stages, _write_stages)]
    micro_batching: Annotated[MicroBatching, Place.INLINE]

    @cached_property
    def layer_formats(self) -> tuple[str, ...]:
        """The format of every layer of the model."""
        return tuple(fmt for stage in self.stages for fmt in stage.formats)

    def first_layers(self) -> list[int]:
        """Return the index of the first layer of each stage."""
        return _first_layers(self.stages)


def check_plan(plan: Plan, scenario: Scenario, where: str = "plan") -> None:
    """Check that a plan is about this scenario: its layers, devices, formats and batch.

    Raises:
        InputError: it is not; the message names the first thing that is wrong. Memory is not
            judged here.
    """
    if not plan.stages:
        raise InputError(f"{where}.stages: expected at least one stage, got none")
    layers = len(plan.layer_formats)
    if layers != scenario.model.layers:
        raise InputError(
            f"{where}.stages: expected {scenario.model.layers} layers in all, got {layers}"
        )
    _check_stages(plan, scenario, where)
    _check_micro_batching(plan.micro_batching, scenario.workload, where)


def _check_stages(plan: Plan, scenario: Scenario, where: str) -> None:
    seen: set[str] = set()
    for number, stage in enumerate(plan.stages):
        place = f"{where}.stages[{number}]"
        if not stage.formats:
            raise InputError(f"{place}.formats: expected at least one layer, got none")
        if stage.device in seen:
            raise InputError(f"{place}.device: {stage.device!r} already runs an earlier stage")
        seen.add(stage.device)
        position = scenario.cluster.index(stage.device, f"{place}.device")
        device = scenario.cluster.devices[position].device
        for name in dict.fromkeys(stage.formats):
            format_named(name, f"{place}.formats")
            if name not in device.formats:
                raise InputError(
                    f"{place}.formats: {stage.device} ({device.name}) cannot run {name}; "
                    f"it runs {', '.join(device.formats)}"
                )


def _check_micro_batching(
    micro_batching: MicroBatching, workload: BatchWorkload, where: str
) -> None:
    requests, prompt_tokens = workload.requests, workload.prompt_tokens
    sizes = {
        "prefill_micro_batch": micro_batching.prefill,
        "decode_micro_batch": micro_batching.decode,
    }
    for name, rows in sizes.items():
        if not 1 <= rows <= requests:
            raise InputError(f"{where}.{name}: expected 1 to {requests} (the batch), got {rows}")
    most = ceil(requests / micro_batching.decode)
    if not 1 <= micro_batching.groups_in_flight <= most:
        raise InputError(
            f"{where}.groups_in_flight: expected 1 to {most}, got {micro_batching.groups_in_flight}"
        )
    chunk_tokens = micro_batching.chunk_tokens
    if chunk_tokens is not None and not 1 <= chunk_tokens <= prompt_tokens:
        raise InputError(
            f"{where}.prefill_chunk_tokens: expected 1 to {prompt_tokens} (the prompt), got "
            f"{chunk_tokens}; leave it out to prefill whole prompts"
        )

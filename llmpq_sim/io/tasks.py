"""Planning tasks put together from names, files and numbers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import isinf
from pathlib import Path

from llmpq_sim.core.cluster import Cluster
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, check_header
from llmpq_sim.core.formats import FORMATS, PAPER_FORMATS, format_named
from llmpq_sim.core.limits import (
    LONGEST_LINE_CHARACTERS,
    MOST_BATCH_REQUESTS,
    MOST_BATCH_TOKENS,
    check_count,
)
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.scenario import BatchWorkload, Scenario
from llmpq_sim.io.files import read_json, read_text
from llmpq_sim.latency.costs import HEAD_FORMAT, LayerCosts
from llmpq_sim.latency.needed_parts import needed_parts
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.quality.cache_loss import with_cache_loss
from llmpq_sim.quality.measured import MeasuredQuality
from llmpq_sim.quality.table import QualityTable, nominal_quality, stored_quality
from llmpq_sim.search.bound.problem import PlanningTask


@dataclass(frozen=True)
class QualityTarget:
    """How much quality a plan may lose.

    Attributes:
        at_least: a format; the plan loses no more than this format everywhere.
        most_loss: a number in the quality table's measure; used where there is no format.
        sensitivity: weight of each layer, or None for equal ones.
        measured: losses measured with the model, or None where nominal ones stand for them.
        stored: the format of each layer of a checkpoint that is published so; None otherwise.
    """

    at_least: str | None
    most_loss: float | None
    sensitivity: tuple[float, ...] | None = None
    measured: MeasuredQuality | None = None
    stored: tuple[str, ...] | None = None

    def table(self, layers: int) -> QualityTable:
        """Return the losses that a plan is judged by.

        Raises:
            InputError: losses were measured of another number of layers.
        """
        if self.stored is not None:
            return stored_quality(self.stored)
        if self.measured is None:
            return nominal_quality(layers, self.sensitivity)
        return self.measured.table(layers)


def quality_target(
    text: str,
    sensitivity: tuple[float, ...] | None = None,
    measured: MeasuredQuality | None = None,
) -> QualityTarget:
    """Return the target that an option names: a format or a largest loss.

    Raises:
        InputError: it is neither.
    """
    if text in FORMATS:
        return QualityTarget(text, None, sensitivity, measured)
    try:
        loss = float(text)
    except ValueError:
        loss = -1.0
    if not 0 <= loss < float("inf"):
        raise InputError(
            f"--quality-at-least: expected a format ({', '.join(FORMATS)}) or the largest loss as "
            f"a number of at least 0, got {text!r}"
        )
    return QualityTarget(None, loss, sensitivity, measured)


def stored_layers(fields: Fields, model: ModelSpec) -> tuple[str, ...]:
    """Return the formats that a plan file says a checkpoint's layers are published in.

    Raises:
        InputError: there is not one for each layer, or one is not known.
    """
    formats = fields.texts("stored")
    where = f"{fields.where}.stored"
    if len(formats) != model.layers:
        raise InputError(f"{where}: expected {model.layers} formats, got {len(formats)}")
    for layer, name in enumerate(formats):
        format_named(name, f"{where}[{layer}]")
    return formats


def batch_workload(
    model: ModelSpec, requests: int, prompt_tokens: int, output_tokens: int | tuple[int, ...]
) -> BatchWorkload:
    """Return a batch, checked against what the model and the planner can hold.

    Raises:
        InputError: a number is out of range, or a request exceeds the model's longest context.
    """
    listed = output_tokens if isinstance(output_tokens, tuple) else (output_tokens,)
    asked = len(listed) if isinstance(output_tokens, tuple) else requests
    check_count("--batch", asked, MOST_BATCH_REQUESTS, "requests")
    check_count("--prompt-tokens", prompt_tokens, MOST_BATCH_TOKENS, "tokens")
    for tokens in set(listed):
        check_count("--output-tokens", tokens, MOST_BATCH_TOKENS, "tokens")
    outputs = listed if isinstance(output_tokens, tuple) else listed * requests
    workload = BatchWorkload(prompt_tokens, outputs)
    if workload.context_tokens > model.max_positions:
        raise InputError(
            f"--prompt-tokens: {prompt_tokens} and {workload.longest_output_tokens} to generate "
            f"are {workload.context_tokens} tokens, {model.name} takes {model.max_positions}"
        )
    return workload


def load_output_lengths(path: Path) -> tuple[int, ...]:
    """Return the tokens to generate per request, one whole number a line.

    Raises:
        InputError: a line is no whole number of at least 1, or there are more lines than a batch
            has requests.
    """
    lengths: list[int] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        if not line.strip():
            continue
        tokens = _whole_number(line.strip())
        if tokens < 1:
            raise InputError(
                f"{path.name}:{number}: expected a whole number of at least 1, got {line[:40]!r}"
            )
        lengths.append(tokens)
        check_count("--batch", len(lengths), MOST_BATCH_REQUESTS, "requests")
    return tuple(lengths)


def _whole_number(text: str) -> int:
    """Return the number that digits state, 0 where they are none; too many digits are none."""
    is_number = text.isascii() and text.isdigit() and len(text) <= LONGEST_LINE_CHARACTERS
    return int(text) if is_number else 0


def load_sensitivity(path: Path, model: ModelSpec) -> tuple[float, ...]:
    """Return the weight of each layer's quality loss from a sensitivity file.

    Raises:
        InputError: the file is for another model or number of layers, or a weight is not positive.
    """
    with Fields(read_json(path), path.name) as fields:
        check_header(fields, "llmpq/sensitivity", 1)
        name = fields.text("model")
        weights = fields.numbers("sensitivity")
    if name != model.name:
        raise InputError(f"{path.name}.model: expected {model.name}, got {name!r}")
    return checked_sensitivity(weights, model.layers, f"{path.name}.sensitivity")


def checked_sensitivity(weights: tuple[float, ...], layers: int, where: str) -> tuple[float, ...]:
    """Return weights, one positive number per layer.

    Raises:
        InputError: they are not.
    """
    if len(weights) != layers:
        raise InputError(f"{where}: expected {layers} numbers, one per layer, got {len(weights)}")
    for layer, weight in enumerate(weights):
        if weight <= 0:
            raise InputError(f"{where}[{layer}]: expected a positive number, got {weight}")
    return weights


def default_formats(model: ModelSpec, cluster: Cluster) -> tuple[str, ...]:
    """Return LLM-PQ's formats, 16 bits as bf16 where the model and every device have it."""
    everywhere = all("bf16" in member.device.formats for member in cluster.devices)
    if model.dtype == "bf16" and everywhere:
        return (*PAPER_FORMATS[:-1], "bf16")
    return PAPER_FORMATS


def chosen_formats(text: str | None, model: ModelSpec, cluster: Cluster) -> tuple[str, ...]:
    """Return the formats an option lists, the fewest bits first, or the default ones.

    Raises:
        InputError: one is unknown, or no device runs it.
    """
    if text is None:
        return default_formats(model, cluster)
    names = [name.strip() for name in text.split(",")]
    for name in names:
        format_named(name, "--formats")
        if not any(member.device.runs(name) for member in cluster.devices):
            lacks = FORMATS[name].arithmetic
            why = f", which takes {lacks} matrix arithmetic" if lacks else ""
            raise InputError(f"--formats: no device of {cluster.name} runs {name}{why}")
    return tuple(sorted(set(names), key=lambda name: (FORMATS[name].stored_bits, name)))


def planning_task(
    scenario: Scenario,
    profiles: Mapping[str, DeviceProfile],
    formats: tuple[str, ...],
    target: QualityTarget,
) -> PlanningTask:
    """Return the task of planning a scenario.

    A format that a device runs but its profile has no times for is not given to the device, and
    profiles keep only what prices a layer of the model.

    Raises:
        InputError: a device is left without a format, its profile without the LM head's, or a
            format without losses.
    """
    cluster = scenario.cluster
    members = []
    for member in cluster.devices:
        profile = profiles[member.device.name]
        known = tuple(name for name in member.device.formats if name in profile.formats)
        if not set(known) & set(formats):
            raise InputError(
                f"{member.name}: the profile {profile.name} has no times for any allowed format "
                f"({', '.join(formats)}) that {member.device.name} runs; it has "
                f"{', '.join(profile.formats)}"
            )
        if HEAD_FORMAT not in profile.formats:
            raise InputError(
                f"{member.name}: the profile {profile.name} has no times for {HEAD_FORMAT}, which "
                "the LM head needs"
            )
        used = {FORMATS[name].arithmetic for name in known}
        arithmetic = tuple(each for each in member.device.arithmetic if each in used)
        device = replace(member.device, formats=known, arithmetic=arithmetic)
        members.append(replace(member, device=device))
    restricted = replace(scenario, cluster=replace(cluster, devices=tuple(members)))
    quality = target.table(scenario.model.layers)
    unknown = ", ".join(name for name in formats if name not in quality.losses)
    if unknown:
        why = (
            "has no nominal loss" if target.measured is None else "was not measured in every layer"
        )
        raise InputError(f"formats: {unknown} {why}; expected some of {', '.join(quality.losses)}")
    kinds = scenario.model.kinds
    needed = {name: needed_parts(profile, kinds) for name, profile in profiles.items()}
    whole = with_cache_loss(quality, scenario.model)
    budget = _budget(quality, target)
    if target.stored is not None:  # a cache that is asked for may lose what it loses
        budget += whole.plan_loss(target.stored)
    return PlanningTask(LayerCosts(restricted, needed), whole, formats, budget)


def formats_without_times(
    cluster: Cluster, profiles: Mapping[str, DeviceProfile], formats: tuple[str, ...]
) -> list[str]:
    """Return a sentence for each kind of device that an allowed format is withheld from."""
    sentences = []
    for kind, device in {member.device.name: member.device for member in cluster.devices}.items():
        known = profiles[kind].formats
        missing = [name for name in formats if name in device.formats and name not in known]
        if missing:
            sentences.append(
                f"{kind} is not given {', '.join(missing)}: {profiles[kind].name} has no times"
            )
    return sentences


def _budget(quality: QualityTable, target: QualityTarget) -> float:
    if target.at_least is None:
        return target.most_loss or 0.0
    loss = quality.uniform_loss(target.at_least)
    if isinf(loss):
        raise InputError(
            f"--quality-at-least: {target.at_least} breaks some layers, as measured; give another "
            "format or the largest loss"
        )
    return loss

"""Plans by hand: layers of each device as the user decided, read, checked, and made a plan."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmpq_sim.api.asked_model import Model, asked_model
from llmpq_sim.api.planned import Planned, Profiles
from llmpq_sim.api.quality_target import QualityOptions, load_target
from llmpq_sim.api.tasks import TaskOptions, asked_batch, batch_task
from llmpq_sim.core.cluster import Cluster
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import FORMATS, format_named
from llmpq_sim.core.limits import MOST_LAYERS
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.core.scenario import BatchWorkload
from llmpq_sim.io.clusters import load_cluster
from llmpq_sim.io.files import read_text
from llmpq_sim.io.tasks import default_formats
from llmpq_sim.quality.table import nominal_quality
from llmpq_sim.search.bound.feasibility import task_grid
from llmpq_sim.search.pinned import plan_pinned
from llmpq_sim.search.pins import Pins
from llmpq_sim.search.planner import SearchSettings


@dataclass(frozen=True)
class Split:
    """Which device has how many layers, as the user says it.

    Attributes:
        layers: of each device in order, with commas between or in a sequence; 0 leaves one out,
            and so does a list that is shorter than the cluster.
        device_order: names of devices; in the cluster's order unless told.
        layer_formats: one format for all layers, a file that lists them, or a sequence with one
            for each layer; chosen by the planner unless told.
    """

    layers: str | Sequence[int]
    device_order: str | Sequence[str] | None = None
    layer_formats: str | Path | Sequence[str] | None = None


@dataclass(frozen=True)
class Rows:
    """Micro-batches as the user wants them; None where the fastest is to be taken."""

    prefill_micro_batch: int | None = None
    decode_micro_batch: int | None = None
    groups_in_flight: int | None = None
    prefill_chunk_tokens: int | None = None

    def options(
        self, grid: Sequence[MicroBatching], workload: BatchWorkload
    ) -> list[MicroBatching]:
        """Return the micro-batchings of a search's grid with what is given put in.

        Raises:
            InputError: a number is out of range for the batch.
        """
        requests, prompt_tokens = workload.requests, workload.prompt_tokens
        asked = {
            "prefill": self.prefill_micro_batch,
            "decode": self.decode_micro_batch,
            "groups_in_flight": self.groups_in_flight,
            "chunk_tokens": self.prefill_chunk_tokens,
        }
        given = {name: rows for name, rows in asked.items() if rows is not None}
        for name, option, most, whole in (
            ("prefill", "--prefill-micro-batch", requests, "batch"),
            ("decode", "--decode-micro-batch", requests, "batch"),
            ("chunk_tokens", "--prefill-chunk-tokens", prompt_tokens, "prompt"),
        ):
            if not 1 <= given.get(name, 1) <= most:
                raise InputError(f"{option}: expected 1 to {most} (the {whole}), got {given[name]}")
        found = dict.fromkeys(replace(each, **given) for each in grid)
        kept = [each for each in found if 1 <= each.groups_in_flight <= -(-requests // each.decode)]
        if not kept:
            most = -(-requests // given.get("decode", 1))
            raise InputError(
                f"--groups-in-flight: expected 1 to {most}, got {self.groups_in_flight}"
            )
        return kept


def plan_split(
    split: Split,
    *,
    model: Model,
    cluster: str | Path | Cluster,
    batch: int | None = None,
    prompt_tokens: int | None = None,
    output_tokens: int | Sequence[int] | Path | None = None,
    rows: Rows | None = None,
    quality: QualityOptions | None = None,
    formats: str | Sequence[str] | None = None,
    kernels: str | None = None,
    profiles: Profiles = (),
) -> Planned:
    """Return a plan with layers where the user wants them, without a search.

    Args:
        split: which device has how many layers, and perhaps in which formats.
        model: bundled name or hub id, folder with a ``config.json``, or the model itself.
        cluster: bundled name, ``.yaml`` file, or the cluster itself.
        batch: requests of the batch; 32 unless told.
        prompt_tokens: of each (padded) prompt; 512 unless told.
        output_tokens: to generate per request, as ``llmpq_sim.api.plan`` takes them.
        rows: micro-batches; the fastest of the search's grid where none are given.
        quality: how much may be lost; as int4 everywhere, or as pinned formats, unless told.
        formats: weight formats that layers may have, in a sequence or with commas between.
        kernels: kernel set for every device; each one's first unless told.
        profiles: latency profiles of the user's own, or files that hold them.

    Raises:
        InputError: a name, a file or a figure says something that cannot be.
        InfeasibleError: a device has no room for its layers, or the formats lose too much.
    """
    quality = quality or QualityOptions()
    asked = asked_model(model, formats, quality)
    spec = asked.spec
    options = TaskOptions(cluster, asked.formats, kernels, tuple(profiles), asked.target)
    pins, options, said = asked_split(split, spec, options, quality)
    workload = asked_batch(spec, batch, prompt_tokens, output_tokens)
    task, notes = batch_task(spec, workload, options)
    batchings = (rows or Rows()).options(task_grid(task), workload)
    outcome = plan_pinned(task, pins, batchings)
    return Planned(outcome, options.target, (*asked.notes, *said, *notes))


def check_split(split: Split | None, checkpoint: Path | None, settings: SearchSettings) -> None:
    """Check that layers that are decided go with what else is asked; where none are, all does.

    Raises:
        InputError: they do not.
    """
    if split is None:
        return
    if checkpoint is not None:
        raise InputError("--layers: such a search keeps no checkpoint; leave it out")
    if settings.wants_front:
        raise InputError("--pareto: with --layers the fastest plan alone is sought; leave it out")


def asked_split(
    split: Split, model: ModelSpec, options: TaskOptions, quality: QualityOptions
) -> tuple[Pins, TaskOptions, tuple[str, ...]]:
    """Return a split, checked, with the task's options as it changes them, and what to say of that.

    Formats of pinned layers are allowed ones, unless allowed ones are told; and where nothing is
    said of quality, as much may be lost as they lose.

    Raises:
        InputError: see ``asked_pins``; or a pinned format is none of the allowed ones.
    """
    given = options.cluster
    cluster = given if isinstance(given, Cluster) else load_cluster(str(given))
    pins = asked_pins(split, model, cluster)
    options = replace(options, cluster=cluster)
    if pins.formats is None:
        return pins, options, ()
    options = replace(options, formats=_allowed(options.formats, pins.formats, model, cluster))
    if quality != QualityOptions() or options.target.stored is not None:
        return pins, options, ()
    target = load_target(QualityOptions(at_least=_as_lossy(pins.formats)), model)
    said = "quality: as much may be lost as the formats of --layer-formats lose"
    return pins, replace(options, target=target), (said,)


def asked_pins(split: Split, model: ModelSpec, cluster: Cluster) -> Pins:
    """Return a split, checked against the model and the cluster.

    Raises:
        InputError: layers do not add up to the model's, a device is unknown or named twice, or
            there are more entries than devices; or formats are not one for each layer.
    """
    counts = _counts(split.layers)
    names = _device_names(split.device_order, cluster)
    if len(counts) > len(names):
        where = "--device-order names" if split.device_order is not None else f"{cluster.name} has"
        raise InputError(
            f"--layers: {len(counts)} numbers, {where} {len(names)} devices ({', '.join(names)})"
        )
    if sum(counts) != model.layers:
        raise InputError(
            f"--layers: {' + '.join(map(str, counts))} are {sum(counts)} layers, {model.name} has "
            f"{model.layers}{_in_proportion(counts, model.layers)}"
        )
    used = [(name, count) for name, count in zip(names, counts, strict=False) if count]
    return Pins(
        devices=tuple(name for name, _ in used),
        layers=tuple(count for _, count in used),
        formats=_layer_formats(split.layer_formats, model.layers),
    )


def _counts(layers: str | Sequence[int]) -> list[int]:
    """Return numbers of layers of at least 0."""
    texts = layers.split(",") if isinstance(layers, str) else [str(count) for count in layers]
    counts = []
    for text in map(str.strip, texts):
        is_number = text.isascii() and text.isdigit() and len(text) <= len(str(MOST_LAYERS))
        if not is_number:
            raise InputError(
                "--layers: expected whole numbers of layers with commas between, such as "
                f"40,20,20, got {text[:40]!r}"
            )
        counts.append(int(text))
    return counts


def _in_proportion(counts: Sequence[int], layers: int) -> str:
    """Return what the same proportions are with the layers that there are, by largest remainder."""
    total = sum(counts)
    if not total:
        return ""
    exact = [count * layers / total for count in counts]
    rounded = [int(each) for each in exact]
    by_remainder = sorted(range(len(exact)), key=lambda number: rounded[number] - exact[number])
    for number in by_remainder[: layers - sum(rounded)]:
        rounded[number] += 1
    return f"; in the same proportions: {','.join(map(str, rounded))}"


def _device_names(device_order: str | Sequence[str] | None, cluster: Cluster) -> list[str]:
    if device_order is None:
        return [member.name for member in cluster.devices]
    listed = device_order.split(",") if isinstance(device_order, str) else device_order
    names = [name.strip() for name in listed]
    for name in names:
        cluster.index(name, "--device-order")
        if names.count(name) > 1:
            raise InputError(f"--device-order: {name!r} is named twice; a device runs one stage")
    return names


def _layer_formats(given: str | Path | Sequence[str] | None, layers: int) -> tuple[str, ...] | None:
    if given is None:
        return None
    if isinstance(given, str | Path):
        if str(given) in FORMATS:
            return (str(given),) * layers
        path = Path(given)
        if not path.exists():
            raise InputError(
                f"--layer-formats: expected a format ({', '.join(FORMATS)}) or a file that lists "
                f"the format of each layer, got {str(given)!r}"
            )
        formats, where = _listed_formats(path), path.name
    else:
        formats, where = tuple(given), "--layer-formats"
    for number, name in enumerate(formats):
        format_named(name, f"{where}: layer {number}")
    if len(formats) != layers:
        raise InputError(f"{where}: expected the formats of {layers} layers, got {len(formats)}")
    return formats


def _listed_formats(path: Path) -> tuple[str, ...]:
    """Return the formats that a text file lists: a format a line, or ``40 x int4`` for many."""
    formats: list[str] = []
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        words = line.split()
        if not words:
            continue
        count, name = (words[0], words[2]) if len(words) == 3 and words[1] == "x" else ("1", line)
        is_number = count.isascii() and count.isdigit() and len(count) <= len(str(MOST_LAYERS))
        if not is_number:
            raise InputError(f"{path.name}:{number}: expected a number of layers, got {count!r}")
        formats += [format_named(name.strip(), f"{path.name}:{number}").name] * int(count)
    return tuple(formats)


def _allowed(
    formats: str | Sequence[str] | None,
    pinned: Sequence[str],
    model: ModelSpec,
    cluster: Cluster,
) -> str | Sequence[str]:
    if formats is None:
        return tuple(dict.fromkeys([*default_formats(model, cluster), *pinned]))
    listed = formats.split(",") if isinstance(formats, str) else formats
    for name in dict.fromkeys(pinned):
        if name not in map(str.strip, listed):
            raise InputError(f"--layer-formats: {name} is none of --formats ({', '.join(listed)})")
    return formats


def _as_lossy(formats: Sequence[str]) -> str:
    """Return the quality target that formats of layers just keep: a format, or their loss."""
    if len(set(formats)) == 1:
        return formats[0]
    return repr(nominal_quality(len(formats), None).plan_loss(formats))

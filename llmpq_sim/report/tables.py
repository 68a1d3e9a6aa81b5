"""Tables of plans, times and errors, and listings of what ships with llmpq."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from llmpq_sim.core.cluster import Cluster, Device
from llmpq_sim.core.formats import FORMATS, WeightFormat
from llmpq_sim.core.memory import ends_bytes, layers_weight_bytes
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.result import Summary
from llmpq_sim.core.units import GB, TFLOP, US, gib, gib_apart
from llmpq_sim.io.clusters import bundled_clusters, load_cluster
from llmpq_sim.io.devices import load_devices, load_links
from llmpq_sim.io.model_records import model_to_dict
from llmpq_sim.io.models import bundled_models, read_model
from llmpq_sim.io.resources import unknown_name
from llmpq_sim.report.comparison import ComparisonRow, FrontRow, WhatIfRow
from llmpq_sim.report.console import WIDTH, new_table, plain
from llmpq_sim.report.formatting import (
    bar,
    folded,
    format_parts,
    percent_text,
    rate_text,
    seconds_text,
)
from llmpq_sim.report.model_description import (
    BILLION,
    kinds_content,
    runtime_says,
    short_kinds,
)
from llmpq_sim.report.quality import loss_with_interval
from llmpq_sim.report.stages import StageRow
from llmpq_sim.report.summary import kinds_text

if TYPE_CHECKING:
    from llmpq_sim.latency.fitting.fit import FitError

BAR_WIDTH = 8
"""Width of a bar, less where the console is too narrow for it."""

FORMATS_WIDTH = 20
NAME_WIDTH = 18
LEAST_NOTES_WIDTH = 10

COMPARISON_HEADINGS = ("tokens/s", "this plan is", "quality loss")
WHAT_IF_HEADINGS = ("what if (at least)", "tokens/s", "change")
ERROR_HEADINGS = ("median", "90th percentile", "rows")
SUMMARY_HEADINGS = ("mean", "p50", "p90", "p95", "p99")


def stage_table(rows: Sequence[StageRow], width: int) -> Table:
    """Return stages with their layers, and bars of their memory and busy time."""
    bar_width = min(max(BAR_WIDTH - (WIDTH - width + 1) // 2, 0), BAR_WIDTH)
    table = new_table("stage", "device", "layers", "formats", "memory", "busy", right=("stage",))
    table.columns[4].no_wrap = table.columns[5].no_wrap = True
    for row in rows:
        table.add_row(
            str(row.number),
            plain(row.device),
            row.layers_text,
            plain("\n".join(folded(format_parts(row.formats), FORMATS_WIDTH, ", "))),
            _memory_cell(row, bar_width),
            _busy_cell(row, bar_width),
        )
    return table


def _memory_cell(row: StageRow, bar_width: int) -> Text:
    needed, limit = gib_apart(row.memory_bytes, row.limit_bytes)
    figures = f"{needed:>5} / {limit} GiB"
    style = "cyan" if row.memory_bytes <= row.limit_bytes else "red"
    return Text.assemble((bar(row.memory_bytes / row.limit_bytes, bar_width), style), figures)


def _busy_cell(row: StageRow, bar_width: int) -> Text:
    busy = row.busy_fraction
    if busy is None:
        return Text("-")
    return Text.assemble((bar(busy, bar_width), "green"), f"{percent_text(busy):>6}")


def comparison_table(rows: Sequence[ComparisonRow], width: int) -> Table:
    """Return plans with their figures; the reason against a plan takes the place of its figures."""
    room = width - NAME_WIDTH
    headings = _columns(COMPARISON_HEADINGS, COMPARISON_HEADINGS, ["formats"], room)
    table = new_table("plan", headings)
    for number, row in enumerate(rows):
        style = "bold" if number == 0 else ""
        figures = _columns(row.figures, COMPARISON_HEADINGS, row.notes, room)
        shown = " ".join(row.notes) if row.tokens_per_s is None else figures
        table.add_row(plain(row.name, style), plain(shown, style))
    return table


def what_if_table(rows: Sequence[WhatIfRow]) -> Table:
    """Return changes with the throughput they would give."""
    table = new_table(*WHAT_IF_HEADINGS, right=WHAT_IF_HEADINGS[1:])
    for row in rows:
        table.add_row(plain(row.label), *row.figures)
    return table


def _columns(
    figures: Sequence[str], headings: Sequence[str], notes: Sequence[str], width: int
) -> str:
    """Return figures below the right ends of their headings, and notes in lines behind them."""
    below = zip(figures, headings, strict=True)
    aligned = "  ".join(f"{text:>{len(heading)}}" for text, heading in below) + "   "
    room = max(width - len(aligned), LEAST_NOTES_WIDTH)
    first, *others = folded(notes, room, ", ") or [""]
    return "\n".join([aligned + first, *(" " * len(aligned) + line for line in others)])


def front_table(rows: Sequence[FrontRow], measure: str) -> Table:
    """Return plans between the fastest and the least damaging, by the measure of losses."""
    headings = ("tokens/s", measure, "stages")
    table = new_table(*headings, "formats", right=headings)
    for row in rows:
        loss = loss_with_interval(row.loss, row.interval)
        figures = (rate_text(row.tokens_per_s), loss, str(row.stages))
        table.add_row(*figures, plain(", ".join(row.formats)))
    return table


def latency_table(named: Iterable[tuple[str, Summary]]) -> Table:
    """Return what requests wait for their tokens: mean and percentiles of each time named."""
    table = new_table("time of a request", *SUMMARY_HEADINGS, right=SUMMARY_HEADINGS)
    for name, summary in named:
        times_s = (summary.mean, summary.p50, summary.p90, summary.p95, summary.p99)
        table.add_row(name, *(seconds_text(time_s) for time_s in times_s))
    return table


def error_table(title: str, errors: Sequence[FitError]) -> Table:
    """Return how far predictions are from measurements, by what was predicted."""
    table = new_table(title, "format", "phase", *ERROR_HEADINGS, right=ERROR_HEADINGS)
    for error in errors:
        shares = (percent_text(error.median_ape, 1), percent_text(error.p90_ape, 1))
        names = map(plain, (error.op, error.format, error.phase))
        table.add_row(*names, *shares, str(error.rows))
    return table


LISTING_SCHEMA = "llmpq/listing"
LISTING_VERSION = 1


@dataclass(frozen=True)
class Listing:
    """Things of one kind, as a table and as plain data.

    Attributes:
        kind: what they are, such as ``devices``.
        columns: headings of the table.
        rows: a text for each heading.
        entries: the same things in SI units, by name of the figure.
    """

    kind: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    entries: tuple[dict[str, Any], ...]

    def content(self) -> dict[str, Any]:
        """Return the things as JSON content."""
        return {"schema": LISTING_SCHEMA, "version": LISTING_VERSION, self.kind: list(self.entries)}


def listing_table(listing: Listing) -> Table:
    """Return what ships of one kind; columns of numbers are aligned to the right."""
    numbers = [
        heading
        for heading, *cells in zip(listing.columns, *listing.rows, strict=True)
        if all(cell.replace(".", "", 1).isdigit() or not cell for cell in cells)
    ]
    table = new_table(*listing.columns, right=numbers)
    for row in listing.rows:
        table.add_row(*map(plain, row))
    return table


def bundled_listing(kind: str, executed: Collection[str] = ()) -> Listing:
    """Return what ships of one kind.

    Args:
        kind: such as ``devices``.
        executed: families of models that the torch runtime computes.

    Raises:
        InputError: there is no such kind.
    """
    if kind not in _KINDS:
        raise unknown_name("list", f"one of {', '.join(_KINDS)}", kind, tuple(_KINDS))
    return _models(executed) if kind == "models" else _KINDS[kind]()


def _models(executed: Collection[str] = ()) -> Listing:
    models = [read_model(name, without_vision=True).spec for name in bundled_models()]
    models.sort(key=lambda model: (model.family, _model_bytes(model)))
    columns = ("model", "B", "active", "layers", "kinds", "context", "runs")
    rows = tuple(_model_row(model, executed) for model in models)
    return Listing("models", columns, rows, tuple(_model_entry(m, executed) for m in models))


def _model_bytes(model: ModelSpec) -> int:
    """Return the bytes of all weights at 16 bits, a tied embedding once."""
    layers = layers_weight_bytes(model, 0, ("fp16",) * model.layers)
    return layers + ends_bytes(model, is_first=True, is_last=True)


def _model_row(model: ModelSpec, executed: Collection[str]) -> tuple[str, ...]:
    sizes = (model.parameters, model.active_parameters)
    return (
        model.name,
        *(f"{size / BILLION:.2f}" for size in sizes),
        str(model.layers),
        short_kinds(model),
        str(model.max_positions),
        runtime_says(model, executed),
    )


def _model_entry(model: ModelSpec, executed: Collection[str]) -> dict[str, Any]:
    shapes = model_to_dict(model)
    shapes.pop("kind_of_layer", None)
    return {
        **shapes,
        "layers": model.layers,
        "parameters": model.parameters,
        "active_parameters": model.active_parameters,
        "kinds": kinds_content(model),
        "runtime": runtime_says(model, executed),
        "weights_bytes": _model_bytes(model),
    }


def _devices() -> Listing:
    devices = list(load_devices().values())
    columns = ("device", "GiB", "GB/s", "TFLOPS", "16 bits", "kernels", "$/h")
    return Listing(
        "devices", columns, tuple(map(_device_row, devices)), tuple(map(asdict, devices))
    )


def _device_row(device: Device) -> tuple[str, ...]:
    price = device.price_usd_per_hour
    return (
        device.name,
        gib(device.memory_bytes),
        f"{device.memory_bytes_per_s / GB:.0f}",
        _teraflops(device),
        " ".join(name for name in device.formats if not FORMATS[name].is_quantized),
        " ".join(device.kernels),
        "" if price is None else f"{price:.2f}",
    )


def _teraflops(device: Device) -> str:
    rate = device.flops_per_s / TFLOP
    return f"{rate:.0f}" if rate >= 100 else f"{rate:.1f}"


def _clusters() -> Listing:
    clusters = [load_cluster(name) for name in bundled_clusters()]
    rows = tuple(
        (cluster.name, kinds_text(cluster), str(_nodes(cluster)), gib(_memory_bytes(cluster)))
        for cluster in clusters
    )
    columns = ("cluster", "devices", "nodes", "GiB in all")
    return Listing("clusters", columns, rows, tuple(map(_cluster_entry, clusters)))


def _cluster_entry(cluster: Cluster) -> dict[str, Any]:
    return {
        "name": cluster.name,
        "devices": dict(Counter(member.device.name for member in cluster.devices)),
        "nodes": _nodes(cluster),
        "memory_bytes": _memory_bytes(cluster),
    }


def _nodes(cluster: Cluster) -> int:
    return len({member.node for member in cluster.devices})


def _memory_bytes(cluster: Cluster) -> int:
    return sum(member.device.memory_bytes for member in cluster.devices)


def _formats() -> Listing:
    columns = ("format", "bits", "stored", "group", "deploy", "quantizer")
    kept = list(FORMATS.values())
    return Listing(
        "formats", columns, tuple(map(_format_row, kept)), tuple(map(_format_entry, kept))
    )


def _format_entry(weight_format: WeightFormat) -> dict[str, Any]:
    return {
        "name": weight_format.name,
        "bits": weight_format.bits,
        "group_size": weight_format.group_size,
        "group_bits": weight_format.group_bits,
        "quantizer": weight_format.quantizer,
        "bits_per_weight": weight_format.bits_per_weight(),
        "engines": list(weight_format.engines),
    }


def _format_row(weight_format: WeightFormat) -> tuple[str, ...]:
    group = str(weight_format.group_size) if weight_format.group_size else "row"
    return (
        weight_format.name,
        str(weight_format.bits),
        f"{weight_format.bits_per_weight():.2f}",
        group if weight_format.is_quantized else "",
        "yes" if "torch" in weight_format.engines else "plan only",
        weight_format.quantizer or "none: weights are kept",
    )


def _links() -> Listing:
    links = load_links()
    rows = tuple(
        (name, f"{link.latency_s / US:g}", f"{link.bytes_per_s / GB:g}")
        for name, link in links.items()
    )
    entries = tuple({"name": name, **asdict(link)} for name, link in links.items())
    return Listing("links", ("link", "latency, us", "GB/s one way"), rows, entries)


def _traces() -> Listing:
    """Return the bundled workloads, then the formats of files that are read."""
    from llmpq_sim.io.presets import load_preset, preset_names  # noqa: PLC0415 - slow to load
    from llmpq_sim.io.traces.detection import known_formats  # noqa: PLC0415 - slow to load

    presets = [(name, load_preset(name)) for name in preset_names()]
    rows = [(name, "bundled", f"{preset.requests} requests") for name, preset in presets]
    entries = [
        {"name": name, "kind": "bundled", "requests": preset.requests, "source": preset.source}
        for name, preset in presets
    ]
    for known in known_formats():
        rows.append((known.name, f"file, {known.kind}", known.times))
        entries.append({"name": known.name, "kind": known.kind, "times": known.times})
    columns = ("trace", "kind", "requests or times")
    return Listing("traces", columns, tuple(rows), tuple(entries))


_KINDS: dict[str, Callable[[], Listing]] = {
    "models": _models,
    "devices": _devices,
    "clusters": _clusters,
    "formats": _formats,
    "links": _links,
    "traces": _traces,
}

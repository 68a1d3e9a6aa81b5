"""Descriptions of what plans are made of: a model, a device, a cluster or a format."""

from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table

from llmpq_sim.core.cluster import Cluster
from llmpq_sim.core.formats import format_named
from llmpq_sim.core.units import GB, TFLOP, gib
from llmpq_sim.io.clusters import load_cluster
from llmpq_sim.io.devices import load_devices
from llmpq_sim.io.models import read_model
from llmpq_sim.io.profiles import bundled_profile, kernel_sets
from llmpq_sim.io.resources import unknown_name
from llmpq_sim.quality.table import nominal_quality
from llmpq_sim.report.console import LABEL_WIDTH, paragraph, plain, print_to, width_of
from llmpq_sim.report.model_description import model_description, model_lines

SCHEMA = "llmpq/description"
VERSION = 1


@dataclass(frozen=True)
class Description:
    """What is known of one thing.

    Attributes:
        kind: what it is: ``model``, ``device``, ``cluster`` or ``format``.
        figures: of it, in SI units, by name.
        lines: the same for a screen.
    """

    kind: str
    figures: dict[str, Any]
    lines: list[tuple[str, str]]

    def content(self) -> dict[str, Any]:
        """Return the figures as JSON content."""
        return {"schema": SCHEMA, "version": VERSION, "kind": self.kind, **self.figures}


def describe(kind: str, name: str, executed: Collection[str]) -> Description:
    """Return what is known of a thing that ships, or of one of the user's.

    Args:
        kind: ``model``, ``device``, ``cluster`` or ``format``.
        name: of it, or where it is.
        executed: families of models that the torch runtime computes.

    Raises:
        InputError: there is no such kind or thing.
    """
    kinds: dict[str, Callable[[], Description]] = {
        "model": lambda: _model(name, executed),
        "device": lambda: _device(name),
        "cluster": lambda: _cluster(name),
        "format": lambda: _format(name),
    }
    if kind not in kinds:
        raise unknown_name("describe", f"one of {', '.join(kinds)}", kind, tuple(kinds))
    return kinds[kind]()


def _model(name: str, executed: Collection[str]) -> Description:
    figures = model_description(read_model(name), executed)
    return Description("model", figures, model_lines(figures))


def _device(name: str) -> Description:
    devices = load_devices()
    if name not in devices:
        raise unknown_name("device", "a bundled device", name, tuple(devices))
    device = devices[name]
    sets = [bundled_profile(device, kernels) for kernels in kernel_sets(device)]
    figures = {
        **asdict(device),
        "kernel_sets": [
            {
                "name": each.kernels,
                "status": each.status,
                "formats": list(each.formats),
                "error_fraction": each.error_fraction,
                "calibration_rows": each.calibration_rows,
                "source": each.source,
                "notes": [*each.notes, *each.part_notes],
                "experts": list(each.experts),
            }
            for each in sets
        ],
    }
    price = device.price_usd_per_hour
    lines = [
        ("device", device.name),
        ("memory", f"{gib(device.memory_bytes)} GiB at {device.memory_bytes_per_s / GB:.0f} GB/s"),
        ("rate", f"{device.flops_per_s / TFLOP:.0f} TFLOPS of 16 bits"),
        ("formats", " ".join(device.formats)),
        *(("kernels", f"{each.kernels} ({each.status}): {each.source}") for each in sets),
        ("source", device.source),
    ]
    if price is not None:
        lines.append(("price", f"{price:.2f} $/h ({device.price_source})"))
    return Description("device", figures, lines)


def _cluster(name: str) -> Description:
    cluster = load_cluster(name)
    members = [
        {"name": each.name, "device": each.device.name, "node": each.node}
        for each in cluster.devices
    ]
    memory_bytes = sum(each.device.memory_bytes for each in cluster.devices)
    links = _links(cluster)
    figures = {
        "name": cluster.name,
        "memory_bytes": memory_bytes,
        "devices": members,
        "links": links,
        "sources": {each.device.name: each.device.source for each in cluster.devices},
    }
    lines = [
        ("cluster", cluster.name),
        ("memory", f"{gib(memory_bytes)} GiB in all"),
        *(("device", f"{each['name']}: {each['device']} in {each['node']}") for each in members),
        *(("link", _link_text(each)) for each in links),
    ]
    return Description("cluster", figures, lines)


def _links(cluster: Cluster) -> list[dict[str, Any]]:
    names = [each.name for each in cluster.devices]
    return [
        {"devices": [names[first], names[second]], **asdict(link)}
        for (first, second), link in sorted(cluster.links.items())
    ]


def _link_text(link: dict[str, Any]) -> str:
    first, second = link["devices"]
    return f"{first} - {second}: {link['bytes_per_s'] / GB:.1f} GB/s"


def _format(name: str) -> Description:
    stored = format_named(name, "format")
    devices = [each.name for each in load_devices().values() if each.runs(name)]
    losses = nominal_quality(1).losses
    figures = {
        **asdict(stored),
        "bits_per_weight": stored.bits_per_weight(),
        "nominal_loss_nats": losses[name][0] if name in losses else None,
        "devices": devices,
        "source": "llmpq_sim/core/formats.py states each format's layout and the noise measured",
    }
    loss = figures["nominal_loss_nats"]
    lines = [
        ("format", stored.name),
        ("bits", f"{stored.bits_per_weight():.3f} a weight with scales, {stored.bits} of codes"),
        ("quantizer", stored.quantizer or "none: weights are kept"),
        ("loss", "not known" if loss is None else f"{loss:.4f} nominal nats a token everywhere"),
        ("engines", " ".join(stored.engines) or "none"),
        ("devices", " ".join(devices) or "none"),
    ]
    return Description("format", figures, lines)


def show_description(console: Console, found: Description) -> None:
    """Write what is known of a thing, a figure a line."""
    width = width_of(console)
    grid = Table.grid(padding=0)
    grid.add_column(width=LABEL_WIDTH)
    grid.add_column()
    for label, text in found.lines:
        grid.add_row(plain(label, "dim"), paragraph(text, width - LABEL_WIDTH))
    print_to(console, grid)

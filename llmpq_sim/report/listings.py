"""Listings of what ships with llmpq: models, devices, clusters and weight formats."""

from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from llmpq_sim.core.cluster import Cluster, Device
from llmpq_sim.core.formats import FORMATS, WeightFormat
from llmpq_sim.core.memory import ends_bytes, layer_weight_bytes
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.units import GB, TFLOP, gib
from llmpq_sim.io.clusters import bundled_clusters, load_cluster
from llmpq_sim.io.devices import load_devices
from llmpq_sim.io.models import bundled_models, load_model
from llmpq_sim.io.resources import unknown_name
from llmpq_sim.report.summary import kinds_text

SCHEMA = "llmpq/listing"
VERSION = 1


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
        return {"schema": SCHEMA, "version": VERSION, self.kind: list(self.entries)}


def bundled_listing(kind: str) -> Listing:
    """Return what ships of one kind.

    Raises:
        InputError: there is no such kind.
    """
    if kind not in _KINDS:
        raise unknown_name("list", f"one of {', '.join(_KINDS)}", kind, tuple(_KINDS))
    return _KINDS[kind]()


def _models() -> Listing:
    models = [load_model(name) for name in bundled_models()]
    models.sort(key=lambda model: (model.family, _model_bytes(model)))
    columns = ("model", "layers", "hidden size", "heads", "KV heads", "context", "GiB at 16 bits")
    return Listing(
        "models", columns, tuple(map(_model_row, models)), tuple(map(_model_entry, models))
    )


def _model_bytes(model: ModelSpec) -> int:
    """Return the bytes of all weights at 16 bits, a tied embedding once."""
    layers = model.layers * layer_weight_bytes(model, FORMATS["fp16"])
    return layers + ends_bytes(model, is_first=True, is_last=True)


def _model_row(model: ModelSpec) -> tuple[str, ...]:
    counts = (model.layers, model.hidden_size, model.heads, model.kv_heads, model.max_positions)
    return (model.name, *map(str, counts), gib(_model_bytes(model)))


def _model_entry(model: ModelSpec) -> dict[str, Any]:
    return {**asdict(model), "weights_bytes": _model_bytes(model)}


def _devices() -> Listing:
    devices = list(load_devices().values())
    columns = ("device", "GiB", "GB/s", "TFLOPS", "formats", "kernels", "$/h")
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
        " ".join(device.formats),
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
    columns = ("format", "bits", "stored bits per weight", "group", "quantizer")
    kept = list(FORMATS.values())
    entries = tuple({**asdict(each), "bits_per_weight": each.bits_per_weight()} for each in kept)
    return Listing("formats", columns, tuple(map(_format_row, kept)), entries)


def _format_row(weight_format: WeightFormat) -> tuple[str, ...]:
    group = str(weight_format.group_size) if weight_format.group_size else "row"
    return (
        weight_format.name,
        str(weight_format.bits),
        f"{weight_format.bits_per_weight():.2f}",
        group if weight_format.is_quantized else "",
        weight_format.quantizer or "none: weights are kept",
    )


_KINDS: dict[str, Callable[[], Listing]] = {
    "models": _models,
    "devices": _devices,
    "clusters": _clusters,
    "formats": _formats,
}

"""Device and link types: YAML of users, and plain data in our own files.

Units change here, once: files that people write have GiB, GB/s, TFLOPS and microseconds, the rest
of llmpq has SI units.
"""

from collections.abc import Sequence
from dataclasses import asdict
from functools import cache
from typing import Any

from llmpq_sim.core.cluster import RUNTIME_BYTES, Device, Link
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import LARGEST_NUMBER, Fields, check_header
from llmpq_sim.core.formats import FORMATS, format_named
from llmpq_sim.core.units import GB, GIB, MIB, TFLOP, US
from llmpq_sim.io.files import read_yaml
from llmpq_sim.io.resources import bundled_dir

# What a file need not say about a device. The fractions are cautious shares of a data sheet's
# peak: power-limited cards sustain 0.40 to 0.60 of it in large products, and decoding 0.70 to 0.80
# of the bandwidth. The counts are a V100's; only fitted profiles depend on them.
DEFAULT_COMPUTE_FRACTION = 0.55
DEFAULT_MEMORY_FRACTION = 0.75
DEFAULT_MULTIPROCESSORS = 80
DEFAULT_L2_MIB = 6.0
DEFAULT_KERNELS = ("spec",)
DEFAULT_SOURCE = "given with the cluster"

DEVICE_KEYS = (
    "name",
    "memory_gib",
    "memory_gb_per_s",
    "fp16_tflops",
    "multiprocessors",
    "l2_mib",
    "compute_fraction",
    "memory_fraction",
    "formats",
    "extra_formats",
    "kernels",
    "source",
    "runtime_gib",
    "price_usd_per_hour",
    "price_source",
)
LINK_KEYS = ("latency_us", "gb_per_s")


def load_devices() -> dict[str, Device]:
    """Return the bundled kinds of device by name."""
    return dict(_bundled_devices())


def load_links() -> dict[str, Link]:
    """Return the bundled kinds of link by name."""
    return dict(_bundled_links())


@cache
def _bundled_devices() -> dict[str, Device]:
    path = bundled_dir("cluster_profiles") / "devices.yaml"
    with Fields(read_yaml(path), path.name) as fields:
        check_header(fields, "llmpq/devices", 1)
        return device_types(fields, "devices")


@cache
def _bundled_links() -> dict[str, Link]:
    path = bundled_dir("cluster_profiles") / "links.yaml"
    with Fields(read_yaml(path), path.name) as fields:
        check_header(fields, "llmpq/links", 1)
        listed = fields.each("links")
    names = [each.text("name") for each in listed]
    check_distinct(names, f"{path.name}.links")
    for each in listed:
        each.text("source")
    return dict(zip(names, map(link_from_fields, listed), strict=True))


def check_distinct(names: Sequence[str], where: str) -> None:
    """Raise InputError if a name occurs twice."""
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise InputError(f"{where}: expected distinct names, got {name!r} more than once")
        seen.add(name)


def device_types(fields: Fields, name: str) -> dict[str, Device]:
    """Return kinds of device by name, from a list of mappings in the units of data sheets.

    Raises:
        InputError: a figure is missing or cannot be, or two kinds have one name.
    """
    devices = [_device_type(each) for each in fields.each(name, [])]
    check_distinct([device.name for device in devices], f"{fields.where}.{name}")
    return {device.name: device for device in devices}


def _device_type(fields: Fields) -> Device:
    with fields:
        _check_known(fields, DEVICE_KEYS)
        return Device(
            name=fields.text("name"),
            memory_bytes=round(_scaled(fields, "memory_gib", GIB)),
            memory_bytes_per_s=_scaled(fields, "memory_gb_per_s", GB),
            flops_per_s=_scaled(fields, "fp16_tflops", TFLOP),
            multiprocessors=fields.integer("multiprocessors", DEFAULT_MULTIPROCESSORS),
            l2_bytes=round(_scaled(fields, "l2_mib", MIB, DEFAULT_L2_MIB)),
            compute_fraction=fields.fraction("compute_fraction", DEFAULT_COMPUTE_FRACTION),
            memory_fraction=fields.fraction("memory_fraction", DEFAULT_MEMORY_FRACTION),
            formats=_formats_of_type(fields),
            kernels=_kernels(fields, DEFAULT_KERNELS),
            source=fields.text("source", DEFAULT_SOURCE),
            runtime_bytes=round(_scaled(fields, "runtime_gib", GIB, RUNTIME_BYTES / GIB)),
            **_price(fields),
        )


def link_from_fields(fields: Fields) -> Link:
    """Return a link from ``latency_us`` and ``gb_per_s``; rejects keys that nobody read.

    Raises:
        InputError: a figure is missing or cannot be.
    """
    with fields:
        _check_known(fields, LINK_KEYS)
        return Link(
            latency_s=fields.number("latency_us", positive=False) * US,
            bytes_per_s=_scaled(fields, "gb_per_s", GB),
        )


def _check_known(fields: Fields, names: tuple[str, ...]) -> None:
    """Raise InputError for a key in another unit before one for the missing key."""
    for name in names:
        fields.has(name)
    fields.check_all_read()


def _price(fields: Fields) -> Any:
    """Return the price with its source; None where it is not known."""
    priced, explained = fields.has("price_usd_per_hour"), fields.has("price_source")
    return {
        "price_usd_per_hour": fields.number("price_usd_per_hour") if priced else None,
        "price_source": fields.text("price_source") if explained else "",
    }


def _scaled(fields: Fields, name: str, unit: float, default: float | None = None) -> float:
    """Return a quantity in SI units: at least one, and no more than a file of ours may hold."""
    value = fields.number(name) if default is None else fields.number(name, default)
    if not 1 <= value * unit <= LARGEST_NUMBER:
        least, most = f"{1 / unit:.2g}", f"{LARGEST_NUMBER / unit:.2g}"
        raise InputError(f"{fields.where}.{name}: expected {least} to {most}, got {value:g}")
    return value * unit


def _formats_of_type(fields: Fields) -> tuple[str, ...]:
    """Return the formats that are listed, or those every device runs with the extra ones."""
    if not fields.has("extra_formats"):
        everywhere = tuple(name for name, each in FORMATS.items() if each.runs_anywhere)
        return _formats(fields) if fields.has("formats") else everywhere
    if fields.has("formats"):
        raise InputError(f"{fields.where}: expected formats or extra_formats, got both")
    extra = _formats(fields, "extra_formats")
    return tuple(name for name, each in FORMATS.items() if each.runs_anywhere or name in extra)


def _formats(fields: Fields, key: str = "formats") -> tuple[str, ...]:
    names = fields.texts(key)
    for name in names:
        format_named(name, f"{fields.where}.{key}")
    return _listed(names, f"{fields.where}.{key}")


def _kernels(fields: Fields, default: tuple[str, ...] | None = None) -> tuple[str, ...]:
    names = fields.texts("kernels") if default is None else fields.texts("kernels", default)
    return _listed(names, f"{fields.where}.kernels")


def _listed(names: tuple[str, ...], where: str) -> tuple[str, ...]:
    if not names:
        raise InputError(f"{where}: expected at least one name, got an empty list")
    check_distinct(names, where)
    return names


# ---- our own files


def device_to_content(device: Device) -> dict[str, object]:
    """Return a kind of device as plain data in SI units, without what is not known or as usual."""
    content = {key: value for key, value in asdict(device).items() if value not in (None, "")}
    if device.runtime_bytes == RUNTIME_BYTES:
        del content["runtime_bytes"]
    return content


def device_from_snapshot(fields: Fields) -> Device:
    """Return the kind of device that ``device_to_content`` wrote.

    Raises:
        InputError: a value is missing, unknown or cannot be.
    """
    with fields:
        return Device(
            name=fields.text("name"),
            memory_bytes=fields.integer("memory_bytes"),
            memory_bytes_per_s=fields.number("memory_bytes_per_s"),
            flops_per_s=fields.number("flops_per_s"),
            multiprocessors=fields.integer("multiprocessors"),
            l2_bytes=fields.integer("l2_bytes"),
            compute_fraction=fields.fraction("compute_fraction"),
            memory_fraction=fields.fraction("memory_fraction"),
            formats=_formats(fields),
            kernels=_kernels(fields),
            source=fields.text("source"),
            runtime_bytes=fields.integer("runtime_bytes", RUNTIME_BYTES),
            **_price(fields),
        )

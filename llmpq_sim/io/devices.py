"""Device and link types: YAML of users, and plain data in our own files.

Units change here, once: files that people write have GiB, GB/s, TFLOPS and microseconds, the rest
of llmpq has SI units.
"""

from dataclasses import dataclass
from functools import cache
from typing import Annotated, TypeVar

from llmpq_sim.core.cluster import RUNTIME_BYTES, ArithmeticNames, Device, Link, Names, format_names
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import LARGEST_NUMBER, Fields, check_header
from llmpq_sim.core.formats import COMMON_FORMATS, FORMATS, check_distinct
from llmpq_sim.core.records import Codec, Fraction, Key, Place, from_dict, keys
from llmpq_sim.core.units import GB, GIB, MIB, TFLOP, US
from llmpq_sim.io.files import read_yaml
from llmpq_sim.io.resources import bundled_dir

Sheet = TypeVar("Sheet")


def _scaled(unit: float) -> Codec:
    """Return the codec of quantities that files have in a unit, and records in SI units.

    There is at least one of the SI unit, and no more than a file of ours may hold.
    """

    def read(fields: Fields, key: str) -> float:
        value = fields.number(key)
        if not 1 <= value * unit <= LARGEST_NUMBER:
            least, most = f"{1 / unit:.2g}", f"{LARGEST_NUMBER / unit:.2g}"
            raise InputError(f"{fields.where}.{key}: expected {least} to {most}, got {value:g}")
        return value * unit

    return Codec(read, lambda quantity: quantity / unit)


_microseconds = Codec(
    lambda fields, key: fields.number(key, positive=False) * US, lambda seconds: seconds / US
)


def _scaled_bytes(unit: float) -> Codec:
    scaled = _scaled(unit)
    return Codec(lambda fields, key: round(scaled.read(fields, key)), scaled.write)


def _formats(fields: Fields, key: str) -> tuple[str, ...]:
    """Return the formats that are listed, or the common ones of all devices with the extra ones."""
    listed = format_names(fields, key) if fields.has(key) else None
    extra = format_names(fields, "extra_formats") if fields.has("extra_formats") else ()
    if listed is not None and extra:
        raise InputError(f"{fields.where}: expected formats or extra_formats, got both")
    common = [name for name in COMMON_FORMATS if FORMATS[name].runs_anywhere]
    known = (name for name in FORMATS if name in (*common, *extra))
    return tuple(known) if listed is None else listed


@dataclass(frozen=True)
class DataSheet(Device):
    """A kind of device as people write it, in the units of data sheets.

    What need not be said: the fractions are cautious shares of a data sheet's peak, for
    power-limited cards sustain 0.40 to 0.60 of it in large products, and decoding 0.70 to 0.80 of
    the bandwidth. The counts are a V100's; only fitted profiles depend on them.
    """

    memory_bytes: Annotated[int, Key("memory_gib"), _scaled_bytes(GIB)]
    memory_bytes_per_s: Annotated[float, Key("memory_gb_per_s"), _scaled(GB)]
    flops_per_s: Annotated[float, Key("fp16_tflops"), _scaled(TFLOP)]
    multiprocessors: Annotated[int, Place.DEFAULTED] = 80
    l2_bytes: Annotated[int, Key("l2_mib"), _scaled_bytes(MIB), Place.DEFAULTED] = 6 * MIB
    compute_fraction: Annotated[Fraction, Place.DEFAULTED] = 0.55
    memory_fraction: Annotated[Fraction, Place.DEFAULTED] = 0.75
    formats: Annotated[tuple[str, ...], Codec(_formats, list)] = ()
    kernels: Annotated[Names, Place.DEFAULTED] = ("spec",)
    source: Annotated[str, Place.DEFAULTED] = "given with the cluster"
    runtime_bytes: Annotated[int, Key("runtime_gib"), _scaled_bytes(GIB), Place.DEFAULTED] = (
        RUNTIME_BYTES
    )
    variant_of: Annotated[str, Place.ABSENT] = ""
    arithmetic: Annotated[ArithmeticNames, Place.DEFAULTED] = ()


@dataclass(frozen=True)
class LinkSheet(Link):
    """A kind of link as people write it."""

    latency_s: Annotated[float, Key("latency_us"), _microseconds]
    bytes_per_s: Annotated[float, Key("gb_per_s"), _scaled(GB)]


UNITS = {
    "memory_gib": "GiB as a driver reports them (a 16 GB card has about 15.6)",
    "memory_gb_per_s": "the memory's bandwidth in GB/s",
    "fp16_tflops": "the dense 16-bit rate in TFLOPS",
    "gb_per_s": "GB/s in one direction (8 Gbit are one GB)",
    "latency_us": "microseconds",
}
OTHER_KEYS = {
    "memory_gib": ("memory", "memory_gb", "memory_mb", "memory_mib", "vram", "vram_gb"),
    "memory_gb_per_s": ("bandwidth", "memory_bandwidth", "bandwidth_gb_s"),
    "fp16_tflops": ("tflops", "fp16", "fp32_tflops", "bf16_tflops"),
    "gb_per_s": ("gbit_per_s", "gbps", "bandwidth", "mb_per_s"),
    "latency_us": ("latency", "latency_ms", "latency_s", "latency_ns"),
}
"""Keys that people write for a figure that has another."""


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
    return dict(zip(names, map(link_from_sheet, listed), strict=True))


def device_types(fields: Fields, name: str) -> dict[str, Device]:
    """Return kinds of device by name, from a list of mappings in the units of data sheets.

    Raises:
        InputError: a figure is missing or cannot be, or two kinds have one name.
    """
    listed = fields.each(name, [])
    for each in listed:
        each.has("extra_formats")
    devices = [Device(**vars(_from_sheet(DataSheet, each))) for each in listed]
    check_distinct([device.name for device in devices], f"{fields.where}.{name}")
    return {device.name: device for device in devices}


def link_from_sheet(fields: Fields) -> Link:
    """Return a link from ``latency_us`` and ``gb_per_s``; rejects keys that nobody read.

    Raises:
        InputError: a figure is missing or cannot be.
    """
    return Link(**vars(_from_sheet(LinkSheet, fields)))


def _from_sheet(kind: type[Sheet], fields: Fields) -> Sheet:
    """Return a sheet; a key in another unit is refused before the one that is then missing."""
    for key in keys(kind):
        fields.has(key)
    for key in keys(kind):
        for other in OTHER_KEYS.get(key, ()):
            if fields.mentions(other):
                raise InputError(f"{fields.where}: expected {key}, {UNITS[key]}; got {other}")
    fields.check_all_read()
    return from_dict(kind, fields)

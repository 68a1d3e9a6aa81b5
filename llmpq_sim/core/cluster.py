"""Cluster: devices, the nodes they sit in, and the links between them."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.formats import ARITHMETIC, COMMON_FORMATS, FORMATS, check_distinct, format_named
from llmpq_sim.core.records import Codec, Fraction, NotNegative, Place
from llmpq_sim.core.units import MIB

RUNTIME_BYTES = 1024 * MIB
"""What a runtime takes on every device beside tensors: the driver's context, the collective
library's buffers, and what the allocator cannot use. An assumption between the 0.5 GiB of a bare
CUDA context and the reference's 1,930 MB + 5 %."""


def _names(fields: Fields, key: str) -> tuple[str, ...]:
    """Return distinct names, at least one."""
    names, where = fields.texts(key), f"{fields.where}.{key}"
    if not names:
        raise InputError(f"{where}: expected at least one name, got an empty list")
    check_distinct(names, where)
    return names


def format_names(fields: Fields, key: str) -> tuple[str, ...]:
    """Return distinct names of weight formats, at least one."""
    for name in fields.texts(key):
        format_named(name, f"{fields.where}.{key}")
    return _names(fields, key)


def _arithmetic(fields: Fields, key: str) -> tuple[str, ...]:
    """Return distinct kinds of arithmetic, perhaps none."""
    names, where = fields.texts(key), f"{fields.where}.{key}"
    for name in names:
        if name not in ARITHMETIC:
            raise InputError(f"{where}: expected some of {', '.join(ARITHMETIC)}, got {name!r}")
    check_distinct(names, where)
    return names


ArithmeticNames = Annotated[tuple[str, ...], Codec(_arithmetic, list)]
Names = Annotated[tuple[str, ...], Codec(_names, list)]


@dataclass(frozen=True)
class Device:
    """A kind of device, by its data sheet.

    Attributes:
        memory_bytes: what the driver reports as usable.
        flops_per_s: dense 16-bit peak with 32-bit accumulation.
        multiprocessors: SMs or compute units.
        l2_bytes: size of the last cache level.
        compute_fraction: share of the 16-bit peak that large matrix products sustain.
        memory_fraction: share of the peak bandwidth that decoding sustains.
        kernels: kernel sets it has a profile for, the preferred one first.
        source: where the figures are from.
        price_usd_per_hour: what an hour costs, or None where it is not known.
        price_source: where and when that price was asked, empty where it is not known.
        runtime_bytes: what a runtime takes on it beside tensors.
        variant_of: the kind that it is but for its memory, empty where it is none.
        arithmetic: what its matrix units multiply faster than 16 bits: ``int8``, ``fp8``, ``fp4``.
    """

    name: str
    memory_bytes: int
    memory_bytes_per_s: float
    flops_per_s: float
    multiprocessors: int
    l2_bytes: int
    compute_fraction: Fraction
    memory_fraction: Fraction
    formats: Annotated[tuple[str, ...], Codec(format_names, list)]
    kernels: Names
    source: str
    price_usd_per_hour: Annotated[float | None, Place.OPTIONAL] = None
    price_source: Annotated[str, Place.OPTIONAL] = ""
    runtime_bytes: Annotated[int, Place.OPTIONAL] = RUNTIME_BYTES
    variant_of: Annotated[str, Place.OPTIONAL] = ""
    arithmetic: Annotated[ArithmeticNames, Place.OPTIONAL] = ()

    @property
    def profiled_as(self) -> str:
        """The kind whose kernels it has."""
        return self.variant_of or self.name

    def runs(self, format_name: str) -> bool:
        """Return whether it runs a format, asked for by name.

        It does where the format is listed, where its matrix units multiply what is stored, and
        where it decodes: a device that has all common weight-only formats decodes any.
        """
        if format_name in self.formats:
            return True
        asked = FORMATS[format_name]
        if not asked.runs_anywhere:
            return asked.arithmetic in self.arithmetic
        return all(name in self.formats for name in COMMON_FORMATS if FORMATS[name].runs_anywhere)

    def offering(self, format_names: Sequence[str]) -> "Device":
        """Return the device with those of some formats listed that it runs."""
        more = [name for name in format_names if name not in self.formats and self.runs(name)]
        return replace(self, formats=(*self.formats, *more)) if more else self


@dataclass(frozen=True)
class Link:
    """A one-way connection: a message takes ``latency_s + bytes / bytes_per_s``.

    Source: the alpha-beta model of LLM-PQ, arXiv:2403.01136, sec. 4.
    """

    latency_s: NotNegative
    bytes_per_s: float

    def transfer_s(self, message_bytes: float) -> float:
        """Return the time of one message."""
        return self.latency_s + message_bytes / self.bytes_per_s


@dataclass(frozen=True)
class ClusterDevice:
    """One device of a cluster: its own name, its kind, and the machine it sits in."""

    name: str
    device: Annotated[Device, Place.LAST]
    node: str


@dataclass(frozen=True)
class Cluster:
    """Devices and the links between them.

    Attributes:
        links: by unordered pair of device indices, lower first.
    """

    name: str
    devices: tuple[ClusterDevice, ...]
    links: dict[tuple[int, int], Link]

    def index(self, name: str, where: str) -> int:
        """Return the position of the device of this name.

        Raises:
            InputError: there is none.
        """
        for position, member in enumerate(self.devices):
            if member.name == name:
                return position
        known = ", ".join(member.name for member in self.devices)
        raise InputError(f"{where}: expected a device of {self.name} ({known}), got {name!r}")

    def offering(self, format_names: Sequence[str]) -> "Cluster":
        """Return the cluster with those of some formats listed that its devices run."""
        members = [
            replace(member, device=member.device.offering(format_names)) for member in self.devices
        ]
        return self if members == list(self.devices) else replace(self, devices=tuple(members))

    def link(self, first: int, second: int) -> Link:
        """Return the link between two different devices."""
        return self.links[min(first, second), max(first, second)]

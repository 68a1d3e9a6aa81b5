"""Names of devices as people write them: one table of spellings, and how a name is compared.

Compared are words: without vendors, brands and what a driver adds, in any order, with numbers and
their letters apart, and the memory as whole gigabytes. ``NVIDIA GeForce RTX 3090``, ``rtx3090`` and
``3090 24GB`` are one device; a word that no device has (``laptop``) makes it another one.
"""

import re
from collections import defaultdict
from collections.abc import Mapping
from functools import cache

from llmpq_sim.core.cluster import Device
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, check_header
from llmpq_sim.core.units import GIB
from llmpq_sim.io.devices import load_devices
from llmpq_sim.io.files import read_yaml
from llmpq_sim.io.resources import bundled_dir

Words = frozenset[str]

VENDORS = (
    *("nvidia", "corporation", "geforce", "tesla", "quadro", "amd", "ati", "radeon", "instinct"),
    *("intel", "arc", "apple", "graphics", "gpu", "card", "accelerator", "generation", "oam"),
    *("r", "tm", "hbm2", "hbm2e", "hbm3e", "gddr6", "gddr6x", "gddr7", "chip"),
)
"""Words that say who made or sold a device, and of what, not which it is."""

BUILDS = ("pcie", "sxm", "hbm3")
"""Words that tell the builds of a device apart: a name without them leaves open which it is."""

FAMILIES = ("rtx", "gtx", "rx")
"""Brands that go before a number and are often left out."""

MODEL = re.compile(r"([a-z]+)?(\d+)([a-z]+)?")
APART = ("ti", "super", "xt", "xtx", "gre", "ada", "d", "s", "laptop", "mobile")
"""What may be written at the end of a number."""

GIGABYTES = re.compile(r"(\d+) ?(?:gib|gb|g)\b")
MEMORY = re.compile(r"\d+g")
CORES = re.compile(r"\d+[-\u2010\u2011 ]core( gpu)?", re.IGNORECASE)
LENT_BY_APPLE = 0.75
"""Share of its memory that a Mac lends to the graphics part."""

SOLD_GB = (
    *(2, 4, 6, 8, 10, 11, 12, 16, 20, 22, 24, 32, 36, 40, 48, 64, 80, 94, 96, 128, 141, 180, 192),
    *(256, 288, 512),
)
"""Sizes of memory that devices are sold with."""

BRACKETS = re.compile(r"\[([^\]]+)\]")
NUMBERED_SOCKET = re.compile(r"sxm\d")


def device_named(name: str, where: str, own: Mapping[str, Device] | None = None) -> Device:
    """Return the device that a name means: one of the user's own kinds, or a bundled one.

    Raises:
        InputError: none or several have it.
    """
    known = load_devices() | dict(own or {})
    if name in known:
        return known[name]
    if len(_spellings().get(words(name), ())) == 1:
        return known[devices_called(name)[0]]
    if open_ones := devices_called(name):
        listed = " or ".join(open_ones)
        raise InputError(f"{where}: {name!r} leaves open which it is; there is {listed}")
    raise _unknown(name, where, tuple(known))


def devices_called(name: str) -> tuple[str, ...]:
    """Return the bundled devices with a name, or where it leaves open which, all that it may be."""
    wanted = words(name)
    found = _spellings().get(wanted) or {
        each
        for spelled, names in _spellings().items()
        if _leaves_open(wanted, spelled)
        for each in names
    }
    return tuple(sorted(found))


def _leaves_open(wanted: Words, spelled: Words) -> bool:
    """Return whether a name lacks only what tells the builds of a device apart."""
    rest = spelled - wanted
    return wanted < spelled and all(word in BUILDS or MEMORY.fullmatch(word) for word in rest)


def words(name: str) -> Words:
    """Return the words of a name by which it is compared; of lspci's, those in brackets."""
    bracketed = BRACKETS.search(name)
    text = CORES.sub(" ", bracketed[1] if bracketed else name).lower()
    text = text.replace("+", " plus ").replace("(r)", " ").replace("(tm)", " ")
    text = GIGABYTES.sub(r" \1g ", re.sub(r"[^a-z0-9 ]+", " ", text))
    found: list[str] = []
    for word in text.split():
        found += _parts(NUMBERED_SOCKET.sub("sxm", word))
    return frozenset(found) - set(VENDORS)


def _parts(word: str) -> list[str]:
    """Return a word, a brand and letters at the end of its number apart: ``rtx3060ti`` is three."""
    matched = MODEL.fullmatch(word)
    if matched is None:
        return [word]
    brand, number, end = matched[1] or "", matched[2], matched[3] or ""
    apart = [brand] if brand in FAMILIES else []
    stem = number if apart else brand + number
    return [*apart, stem, end] if end in APART and len(number) > 2 else [*apart, stem + end]


@cache
def _spellings() -> dict[Words, set[str]]:
    """Return the names of bundled devices by the words of every spelling."""
    path = bundled_dir("cluster_profiles") / "device_names.yaml"
    with Fields(read_yaml(path), path.name) as fields:
        check_header(fields, "llmpq/device-names", 1)
        listed = fields.fields("names")
        table = {key: listed.texts(key) for key in load_devices() if listed.has(key)}
        listed.check_all_read()
    spelled: defaultdict[Words, set[str]] = defaultdict(set)
    for name, device in load_devices().items():
        for spelling in (name, *table.get(name, ())):
            for each in _variants(words(spelling), device):
                spelled[each].add(name)
    return dict(spelled) | {words(name): {name} for name in load_devices()}


def _variants(spelled: Words, device: Device) -> set[Words]:
    """Return a spelling, also with its memory, and each of them without its brand."""
    sizes: list[Words] = [spelled]
    if not any(MEMORY.fullmatch(word) for word in spelled):
        sizes += [spelled | {f"{size}g"} for size in _marketed(device)]
    return {variant for size in sizes for variant in (size, _unbranded(size))}


def _unbranded(spelled: Words) -> Words:
    """Return a spelling without its brand where its number tells enough."""
    numbered = any(re.fullmatch(r"\d{4}", word) for word in spelled)
    return spelled - set(FAMILIES) if numbered else spelled


def _marketed(device: Device) -> tuple[int, ...]:
    """Return the gigabytes that a device of this usable memory may be sold with."""
    share = LENT_BY_APPLE if re.match(r"m\d", device.name) else 1.0
    usable = device.memory_bytes / GIB / share
    return tuple(size for size in SOLD_GB if 0.92 * size <= usable <= 1.005 * size)


def _unknown(name: str, where: str, known: tuple[str, ...]) -> InputError:
    """Return the error of a name that no device has: a likeness is named as such, not offered."""
    wanted = {word for word in words(name) if any(sign.isdigit() for sign in word)}
    related = [each for each in known if wanted & words(each)]
    hint = f"others of that number: {', '.join(related)}; " if related else ""
    return InputError(
        f"{where}: no device is called {name!r}; {hint}`llmpq list devices` names all, and "
        "device_types in a cluster file describes others (name, memory_gib, memory_gb_per_s, "
        "fp16_tflops)"
    )

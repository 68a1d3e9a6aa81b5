"""Cards of a machine as vendors' tools list them: nvidia-smi, rocm-smi, system_profiler.

Read is what people paste: the table of ``nvidia-smi``, its ``-L`` and its CSV, the text or JSON of
``rocm-smi --showproductname --showmeminfo vram``, and ``system_profiler SPHardwareDataType
SPDisplaysDataType``.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from llmpq_sim.core.cluster import Device
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.units import GIB, MIB
from llmpq_sim.io.device_names import LENT_BY_APPLE, devices_called
from llmpq_sim.io.devices import load_devices

NVIDIA_QUERY = (
    *("nvidia-smi", "--query-gpu=name,memory.total,memory.used"),
    "--format=csv,noheader,nounits",
)
TOOLS = (
    NVIDIA_QUERY,
    ("rocm-smi", "--showproductname", "--showmeminfo", "vram"),
    ("system_profiler", "SPHardwareDataType", "SPDisplaysDataType"),
)
"""What is asked, in this order, on a machine."""

NEAR = 0.08
"""Relative difference of a card's memory to that of the kind of its name: drivers differ by less,
the sizes in which a card is sold by more."""

TABLE_NAME = re.compile(r"^\|\s*\d+\s+(\S.*?)\s+(?:On|Off|N/A)\s*\|")
TABLE_MEMORY = re.compile(r"(\d+)\s*MiB\s*/\s*(\d+)\s*MiB")
LISTED = re.compile(r"^GPU \d+: (.+?) \(UUID:")
CSV_ROW = re.compile(r"^([^,|]*[A-Za-z][^,|]*),\s*(\d+)(?:\s*MiB)?(?:,\s*(\d+)(?:\s*MiB)?)?\s*$")
ROCM = re.compile(r"(?:GPU\[(\d+)\]|\"card(\d+)\")\s*:?")
ROCM_NAME = re.compile(r"Card (?:Series|series|SKU|Model)\"?:?\s*:?\s*\"?([^\"\n,]+)")
ROCM_TOTAL = re.compile(r"VRAM Total Memory \(B\)\"?:?\s*\"?(\d+)")
ROCM_USED = re.compile(r"VRAM Total Used Memory \(B\)\"?:?\s*\"?(\d+)")
APPLE_CHIP = re.compile(r"Chipset Model: (Apple .+?)\s*$", re.MULTILINE)
APPLE_MEMORY = re.compile(r"^\s*Memory: (\d+) GB", re.MULTILINE)


@dataclass(frozen=True)
class Card:
    """A card as it is listed.

    Attributes:
        name: as the driver has it.
        total_bytes, used_bytes: its memory and what is taken of it, None where that is not said.
    """

    name: str
    total_bytes: int | None = None
    used_bytes: int | None = None


def listed_cards(text: str, where: str) -> list[Card]:
    """Return the cards that a tool listed, in its order.

    Raises:
        InputError: none is listed, or a name was cut.
    """
    readers: tuple[Callable[[str], Iterator[Card]], ...] = (
        _nvidia_table,
        _nvidia_list,
        _csv,
        _rocm,
        _apple,
    )
    for read in readers:
        if cards := list(read(text)):
            break
    else:
        raise InputError(
            f"{where}: expected the output of nvidia-smi, rocm-smi or system_profiler, got no "
            f"card that is listed; for NVIDIA's: {' '.join(NVIDIA_QUERY)}"
        )
    for card in cards:
        if card.name.endswith("..."):
            raise InputError(
                f"{where}: the name {card.name!r} is cut; give the output of "
                f"{' '.join(NVIDIA_QUERY)}"
            )
    return cards


def device_of(card: Card, where: str) -> Device:
    """Return the kind of a card; its memory tells apart those that are called alike.

    Raises:
        InputError: no bundled device, or several, have this name and memory.
    """
    known = load_devices()
    named = [known[name] for name in devices_called(card.name)]
    if card.total_bytes is None:
        fitting = named
    else:
        sized = f"{card.name} {round(card.total_bytes / GIB)}GB"
        named += [known[name] for name in devices_called(sized) if known[name] not in named]
        fitting = [
            device
            for device in named
            if abs(device.memory_bytes / card.total_bytes - 1) <= NEAR or len(named) == 1
        ]
    if len(fitting) == 1:
        return fitting[0]
    if not named:
        raise InputError(
            f"{where}: no device is called {card.name!r}; describe it under device_types in a "
            "cluster file (name, memory_gib, memory_gb_per_s, fp16_tflops)"
        )
    total = "" if card.total_bytes is None else f" with {card.total_bytes / GIB:.1f} GiB"
    listed = " or ".join(device.name for device in fitting or named)
    raise InputError(f"{where}: {card.name!r}{total} leaves open which it is; there is {listed}")


def _nvidia_table(text: str) -> Iterator[Card]:
    name = ""
    for line in text.splitlines():
        if matched := TABLE_NAME.match(line):
            name = matched[1]
        elif name and (memory := TABLE_MEMORY.search(line)):
            yield Card(name, int(memory[2]) * MIB, int(memory[1]) * MIB)
            name = ""


def _nvidia_list(text: str) -> Iterator[Card]:
    for line in text.splitlines():
        if matched := LISTED.match(line.strip()):
            yield Card(matched[1])


def _csv(text: str) -> Iterator[Card]:
    for line in text.splitlines():
        if matched := CSV_ROW.match(line.strip()):
            used = int(matched[3]) * MIB if matched[3] else None
            yield Card(matched[1].strip(), int(matched[2]) * MIB, used)


def _rocm(text: str) -> Iterator[Card]:
    parts: dict[str, str] = {}
    pieces = ROCM.split(text)
    for first, second, piece in zip(pieces[1::3], pieces[2::3], pieces[3::3], strict=True):
        number = first or second
        parts[number] = parts.get(number, "") + piece
    for part in parts.values():
        name, total, used = (found.search(part) for found in (ROCM_NAME, ROCM_TOTAL, ROCM_USED))
        if name:
            yield Card(
                name[1].strip(), int(total[1]) if total else None, int(used[1]) if used else None
            )


def _apple(text: str) -> Iterator[Card]:
    chip, memory = APPLE_CHIP.search(text), APPLE_MEMORY.search(text)
    if chip:
        lent = round(int(memory[1]) * GIB * LENT_BY_APPLE) if memory else None
        yield Card(chip[1], lent)

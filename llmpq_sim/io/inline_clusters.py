"""Clusters of one machine in a line: ``2xrtx-3090+1xrtx-4090``, a link may follow ``@``."""

import re

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.device_names import device_named

GROUP = re.compile(r"\s*(\d{1,3})\s*[x*]\s*(\S.*?)\s*")
NEXT_GROUP = re.compile(r"\+(?=\s*\d+\s*[x*])")

BOARD_LINKS = {
    "v100-16g": "nvlink-2",
    "v100-32g": "nvlink-2",
    "a100-40g": "nvlink-3",
    "a100-sxm": "nvlink-3",
    "a800-80g": "nvlink-3-a800",
    "h100-sxm": "nvlink-4",
    "h20": "nvlink-4",
    "h200-sxm": "nvlink-4",
    "b200": "nvlink-5",
    "b200-sxm": "nvlink-5",
    "b300": "nvlink-5",
}
"""Links of devices that share a board; other cards are taken to copy through the host."""

CARD_LINK = "pcie-4-host"


def is_inline(text: str) -> bool:
    """Return whether an argument lists devices rather than names a cluster or a file."""
    return GROUP.fullmatch(NEXT_GROUP.split(text)[0]) is not None


def inline_content(text: str, where: str) -> dict[str, object]:
    """Return the content of the cluster file that a line stands for.

    The name of the cluster says the link, also where it was assumed.

    Raises:
        InputError: a group is not ``COUNTxDEVICE``, or no device is called so.
    """
    devices, _, link = text.partition("@")
    groups: list[dict[str, object]] = []
    for part in NEXT_GROUP.split(devices):
        matched = GROUP.fullmatch(part)
        if matched is None:
            raise InputError(f"{where}: expected devices such as 2xrtx-3090, got {part!r}")
        kind = device_named(matched[2], where).name
        groups.append({"type": kind, "count": int(matched[1])})
    chosen = link.strip() or usual_link({str(group["type"]) for group in groups})
    listed = "+".join(f"{group['count']}x{group['type']}" for group in groups)
    return {
        "name": f"{listed}@{chosen}",
        "nodes": [{"name": "node-0", "devices": groups, "link": chosen}],
    }


def usual_link(kinds: set[str]) -> str:
    """Return the link that devices of these kinds are taken to have within a machine."""
    links = {BOARD_LINKS.get(kind, CARD_LINK) for kind in kinds}
    return links.pop() if len(links) == 1 else CARD_LINK

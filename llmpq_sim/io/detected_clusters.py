"""Cluster files of the cards that a machine has."""

import shutil
import subprocess
from collections import Counter
from pathlib import Path
from typing import Any

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.units import GIB
from llmpq_sim.io.card_listings import NEAR, TOOLS, Card, device_of, listed_cards
from llmpq_sim.io.files import read_text
from llmpq_sim.io.inline_clusters import usual_link
from llmpq_sim.io.profiled_clusters import cluster_yaml

ANSWER_S = 30.0
LEAST_RESERVED_GIB = 0.25
"""Less is what a driver keeps of an idle card, which runtime_gib covers."""


def detected_cluster(listing: Path | None, name: str) -> str:
    """Return the YAML of a cluster of the cards that a tool lists, or that a file says it listed.

    What is taken of a card's memory stands as ``reserved_gib``; the link is assumed.

    Args:
        listing: the pasted output of a tool; None asks the tools of this machine.
        name: of the cluster.

    Raises:
        InputError: nothing lists a card, or a card is of no known kind.
    """
    text, where = (read_text(listing), listing.name) if listing else _asked()
    cards = listed_cards(text, where)
    groups: Counter[tuple[tuple[str, Any], ...]] = Counter()
    kinds = set()
    for card in cards:
        device = device_of(card, where)
        kinds.add(device.name)
        groups[tuple(_entry(card, device.name, device.memory_bytes).items())] += 1
    node: dict[str, Any] = {
        "name": "node-0",
        "devices": [{**dict(entry), "count": count} for entry, count in groups.items()],
    }
    if len(cards) > 1:
        node["link"] = usual_link(kinds)
    return cluster_yaml(
        {
            "name": name,
            "source": f"{where}; the link is assumed" if len(cards) > 1 else where,
            "nodes": [node],
        }
    )


def _entry(card: Card, kind: str, usual_bytes: int) -> dict[str, Any]:
    """Return a card as cluster files have it, with memory that is not its kind's."""
    entry: dict[str, Any] = {"type": kind}
    if card.total_bytes is not None and abs(card.total_bytes / usual_bytes - 1) > NEAR:
        entry["memory_gib"] = round(card.total_bytes / GIB, 2)
    reserved = round((card.used_bytes or 0) / GIB, 2)
    if reserved >= LEAST_RESERVED_GIB:
        entry["reserved_gib"] = reserved
    return entry


def _asked() -> tuple[str, str]:
    """Return what the first tool of this machine lists, and its name.

    Raises:
        InputError: there is none, or it fails.
    """
    for tool in TOOLS:
        if shutil.which(tool[0]) is None:
            continue
        try:
            done = subprocess.run(
                tool, capture_output=True, text=True, check=False, timeout=ANSWER_S
            )
        except subprocess.TimeoutExpired:
            raise InputError(f"{tool[0]}: did not answer in {ANSWER_S:.0f} s") from None
        if done.returncode:
            said = (done.stderr or done.stdout).strip().splitlines()[:1]
            raise InputError(f"{tool[0]}: ended with {done.returncode}: {' '.join(said)}")
        return done.stdout, tool[0]
    tools = ", ".join(tool[0] for tool in TOOLS)
    raise InputError(
        f"detect: expected one of {tools} on this machine, found none; paste the output of one "
        "into a file and give it with --from"
    )

"""Splits of layers over devices in a given order, in proportion or up to a level."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate, pairwise

HALVINGS = 60
"""Of the level of a split."""


def divided(amounts: Sequence[float], shares: Sequence[float]) -> list[int]:
    """Return how many consecutive layers each device holds, at least one each.

    Args:
        amounts: of each layer; what is divided in proportion. Equal ones are counted, of others
            each cut is where their sum is nearest to the share of the devices before it.
        shares: of each device.
    """
    if len(set(amounts)) == 1:
        return by_largest_remainder(shares, len(amounts))
    sums, total = [0.0, *accumulate(amounts)], sum(shares)
    if total <= 0:
        shares, total = [1.0] * len(shares), float(len(shares))
    cuts = [0]
    for number, before in enumerate(accumulate(shares[:-1]), start=1):
        wanted = before / total * sums[-1]
        least, most = cuts[-1] + 1, len(amounts) - len(shares) + number
        cuts.append(min(range(least, most + 1), key=lambda cut: abs(sums[cut] - wanted)))
    cuts.append(len(amounts))
    return [stop - start for start, stop in pairwise(cuts)]


def by_largest_remainder(shares: Sequence[float], layers: int) -> list[int]:
    """Return whole layers in proportion to shares, at least one each."""
    total = sum(shares)
    if total <= 0:
        shares, total = [1.0] * len(shares), float(len(shares))
    exact = [share / total * layers for share in shares]
    counts = [int(value) for value in exact]
    by_remainder = sorted(range(len(exact)), key=lambda i: (counts[i] - exact[i], i))
    for index in by_remainder[: layers - sum(counts)]:
        counts[index] += 1
    while 0 in counts:
        counts[counts.index(max(counts))] -= 1
        counts[counts.index(0)] += 1
    return counts


def filled_in_turn(
    layer_bytes: Sequence[int], seconds: Sequence[Sequence[float]], free_bytes: Sequence[int]
) -> list[int]:
    """Return how many consecutive layers each device holds if the slowest is to be fast.

    Each device in turn takes as many as take it no longer than a level and fit its memory; where no
    level has room for all, memory does not count.

    Args:
        layer_bytes: of each layer.
        seconds: of each layer, for each device.
        free_bytes: of each device.
    """
    held = [0, *accumulate(layer_bytes)]
    times_s = [[0.0, *accumulate(of_device)] for of_device in seconds]
    rooms = list(free_bytes)

    def fill(level_s: float) -> list[int]:
        counts, placed = [], 0
        for sums_s, room in zip(times_s, rooms, strict=True):
            by_time = bisect_right(sums_s, sums_s[placed] + level_s) - 1
            by_room = bisect_right(held, held[placed] + room) - 1
            counts.append(max(min(by_time, by_room) - placed, 0))
            placed += counts[-1]
        return counts

    high_s = max(sums_s[-1] for sums_s in times_s)
    if sum(fill(high_s)) < len(layer_bytes):
        rooms = [held[-1]] * len(rooms)
    low_s = 0.0
    for _ in range(HALVINGS):
        middle_s = (low_s + high_s) / 2
        if sum(fill(middle_s)) < len(layer_bytes):
            low_s = middle_s
        else:
            high_s = middle_s
    return fill(high_s)

"""Clock offsets of stages against the first stage."""

import platform
from pathlib import Path
from time import perf_counter

import torch
import torch.distributed as dist

ROUNDS = 32
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def clocks_ahead_s() -> list[float]:
    """Return for each stage what its clock shows more than that of the first, at one instant.

    Stages of one machine share its clock. For others it is estimated as in NTP: the first stage
    asks for the time, and takes the answer that came back fastest as of halfway between.
    Source: Mills, RFC 5905, sec. 8. Every stage must call it; only the first gets the answer.
    """
    machines: list[str | None] = [None] * dist.get_world_size()
    dist.all_gather_object(machines, _machine())
    ahead_s = [0.0] * len(machines)
    for stage in range(1, len(machines)):
        if machines[stage] != machines[0]:
            ahead_s[stage] = _asked(stage) if dist.get_rank() == 0 else 0.0
            if dist.get_rank() == stage:
                _answer()
    return ahead_s


def _machine() -> str:
    return BOOT_ID.read_text(encoding="ascii") if BOOT_ID.exists() else platform.node()


def _asked(stage: int) -> float:
    best_s, ahead_s = float("inf"), 0.0
    told = torch.zeros(1, dtype=torch.float64)
    for _ in range(ROUNDS):
        sent_s = perf_counter()
        dist.send(told, stage)
        dist.recv(told, stage)
        back_s = perf_counter()
        if back_s - sent_s < best_s:
            best_s = back_s - sent_s
            ahead_s = told.item() - (sent_s + back_s) / 2
    return ahead_s


def _answer() -> None:
    told = torch.zeros(1, dtype=torch.float64)
    for _ in range(ROUNDS):
        dist.recv(told, 0)
        told[0] = perf_counter()
        dist.send(told, 0)

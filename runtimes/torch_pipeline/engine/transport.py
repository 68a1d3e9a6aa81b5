"""Transport of tensors between stages."""

from collections import deque
from datetime import timedelta
from typing import Any, Protocol

import torch
import torch.distributed as dist

UNLIMITED = timedelta(days=7)
"""Idle stages wait as long as no request arrives; who hangs is told by heartbeats instead."""

MOST_UNSENT = 64

ANNOUNCEMENT, HIDDEN, TOKENS, REPORT = 1, 2, 3, 4
"""Tags of what is sent: steps, hidden states, sampled tokens, and what was measured."""


class Transport(Protocol):
    """Two calls by which stages exchange tensors.

    Attributes:
        is_staged: whether tensors of a GPU pass through the CPU's memory.
    """

    is_staged: bool

    def send(self, tensor: torch.Tensor, stage: int, tag: int) -> None:
        """Send a tensor to a stage, without waiting for it to arrive."""

    def receive(
        self, shape: tuple[int, ...], dtype: torch.dtype, stage: int, tag: int
    ) -> torch.Tensor:
        """Return the next tensor of a known shape from a stage, on this stage's device."""


class DistributedTransport:
    """Exchanges tensors through torch.distributed.

    Attributes:
        device: of this stage.
        is_staged: whether tensors pass through the CPU's memory.
    """

    def __init__(self, device: torch.device, is_staged: bool) -> None:
        self.device = device
        self.is_staged = is_staged
        self._unsent: deque[tuple[Any, torch.Tensor]] = deque()

    def send(self, tensor: torch.Tensor, stage: int, tag: int) -> None:
        """Send a tensor; its memory is kept until it is gone."""
        kept = (tensor.cpu() if self.is_staged else tensor).contiguous()
        self._unsent.append((dist.isend(kept, stage, tag=tag), kept))
        while len(self._unsent) > MOST_UNSENT:
            self._unsent.popleft()[0].wait()

    def receive(
        self, shape: tuple[int, ...], dtype: torch.dtype, stage: int, tag: int
    ) -> torch.Tensor:
        """Return the next tensor from a stage."""
        is_local = self.is_staged or tag != HIDDEN
        buffer = torch.empty(shape, dtype=dtype, device="cpu" if is_local else self.device)
        dist.recv(buffer, stage, tag=tag)
        return buffer.to(self.device) if tag == HIDDEN else buffer

    def flush(self) -> None:
        """Wait until everything is sent."""
        while self._unsent:
            self._unsent.popleft()[0].wait()


def join_stages(
    devices: list[str], own: torch.device, store: dist.Store, number: int
) -> DistributedTransport:
    """Meet the other stages in a store and return the way to exchange tensors with them.

    NCCL joins stages that are all on GPUs of their own; wherever one is not, gloo carries tensors
    through the CPU's memory.
    """
    on_gpus = all(device.startswith("cuda") for device in devices)
    backend = "cpu:gloo,cuda:nccl" if on_gpus else "gloo"
    dist.init_process_group(
        backend, timeout=UNLIMITED, store=store, rank=number, world_size=len(devices)
    )
    return DistributedTransport(own, is_staged=own.type == "cuda" and not on_gpus)

"""Counts of how often tokens choose each expert of a layer."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from runtimes.torch_pipeline.engine.stage import Stage
from runtimes.torch_pipeline.weights.experts import expert_modules


@contextmanager
def counted_choices(stage: Stage) -> Iterator[list[int]]:
    """Give a list that holds, at the end, how often each expert of a one-layer stage was chosen.

    It stays empty where the layer has no experts.
    """
    counts: list[int] = []
    totals: list[torch.Tensor] = []
    hooks = []
    for _, experts, number in expert_modules(stage.named_modules()):
        totals.append(torch.zeros(number, dtype=torch.int64))
        hooks.append(experts.register_forward_pre_hook(partial(_count, totals[-1])))
    try:
        yield counts
    finally:
        for hook in hooks:
            hook.remove()
        counts += [int(count) for total in totals for count in total]


def _count(total: torch.Tensor, _: nn.Module, inputs: tuple[Any, ...]) -> None:
    """Add the choices of some tokens: the second input of a module of experts."""
    total += torch.bincount(inputs[1].reshape(-1), minlength=len(total)).cpu()

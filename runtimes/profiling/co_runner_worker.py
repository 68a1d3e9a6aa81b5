"""Worker that keeps the other cores busy with the products of a stage.

Stages of one machine share its memory's bandwidth and its last cache level. A kernel that is timed
while the other cores rest is faster than it will be in a pipeline.
"""

import json
import os
import sys
from collections.abc import Iterator
from itertools import cycle

import torch

from runtimes.torch_pipeline.processes.host_memory import pin
from runtimes.torch_pipeline.weights.linear import StoredLinear, linear_from_weight
from runtimes.torch_pipeline.weights.loading import DTYPES

MOST_WEIGHTS = 1 << 24
"""Larger matrices are cut to so many weights, which are cold all the same."""

TOKENS = (4, 4, 4, 64)
"""Of the products in turn: mostly decodes, as in serving."""


def main(text: str) -> None:
    """Multiply until the parent is gone.

    Args:
        text: the task as JSON: ``cores``, ``formats``, ``dtype``, and ``shapes`` as pairs of
            output and input features.
    """
    task = json.loads(text)
    parent = os.getppid()
    pin(tuple(task["cores"]))
    dtype = DTYPES[task["dtype"]]
    linears = [
        _linear(out, into, name, dtype) for name in task["formats"] for out, into in task["shapes"]
    ]
    sys.stdout.write("true\n")
    sys.stdout.flush()
    with torch.inference_mode():
        for linear, tokens in _turns(linears):
            linear(torch.ones(tokens, linear.in_features, dtype=dtype))
            if os.getppid() != parent:
                return


def _linear(out_features: int, in_features: int, name: str, dtype: torch.dtype) -> StoredLinear:
    rows = min(out_features, max(16, MOST_WEIGHTS // in_features // 16 * 16))
    weight = torch.randn(rows, in_features)
    return linear_from_weight(weight, None, name, torch.device("cpu"), dtype)


def _turns(linears: list[StoredLinear]) -> Iterator[tuple[StoredLinear, int]]:
    tokens = cycle(TOKENS)
    for linear in cycle(linears):
        yield linear, next(tokens)


if __name__ == "__main__":
    main(sys.argv[1])
    os._exit(0)

"""Processors with and without instructions for bfloat16, whichever runs the tests."""

from collections.abc import Iterator

import pytest

from runtimes.torch_pipeline.weights import kernels

PROCESSORS = ("bf16", "no-bf16")
"""Parameters of the fixture where a test file makes ``bfloat16_instructions`` one."""


def bfloat16_instructions(
    request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[bool]:
    """Run a test as on a processor that has them, and as on one that has not."""
    is_there = request.param == PROCESSORS[0]
    monkeypatch.setattr(kernels, "has_native_bf16", lambda _: is_there)
    yield is_there

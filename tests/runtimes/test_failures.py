"""Messages of a failing stage: input, memory, lost peers and faults told apart."""

from pathlib import Path

import pytest
import torch

from llmpq_sim.core.errors import InfeasibleError, InputError
from runtimes.torch_pipeline.processes.failures import (
    StageFailure,
    failure_of,
    is_out_of_memory,
    read_failure,
    write_failure,
)

CPU_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 1099511627776 bytes. Error code 12 (Cannot allocate memory)"
)
CUDA_MEMORY = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 15 GiB"
LOST = "[../third_party/gloo/gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]"


@pytest.mark.parametrize(
    ("error", "kind", "message"),
    [
        (InputError("no tensor 'x'"), "input", "no tensor 'x'"),
        (InfeasibleError("no room"), "input", "no room"),
        (RuntimeError(CPU_MEMORY), "memory", "an allocation of 1048576.0 MiB failed"),
        (
            torch.cuda.OutOfMemoryError(CUDA_MEMORY),
            "memory",
            "an allocation of 2.50 GiB failed",
        ),
        (MemoryError(), "memory", "an allocation failed"),
        (OSError(12, "Cannot allocate memory"), "memory", "an allocation failed"),
        (RuntimeError(f"{LOST}\nmore"), "peer", LOST),
        (RuntimeError("Connection reset by peer"), "peer", "Connection reset by peer"),
        (ValueError("odd"), "fault", "ValueError: odd"),
        (KeyboardInterrupt(), "fault", "KeyboardInterrupt: no message"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_an_error_has_a_kind(error: BaseException, kind: str, message: str) -> None:
    assert failure_of(error, "serving") == StageFailure(kind, "serving", message)


def test_what_pytorch_says_without_memory_is_recognized() -> None:
    with pytest.raises(RuntimeError) as failed:
        torch.empty(2**60, dtype=torch.uint8)
    failure = failure_of(failed.value, "loading")
    assert is_out_of_memory(failed.value)
    assert failure == StageFailure("memory", "loading", f"an allocation of {2**40:.1f} MiB failed")


def test_a_failure_is_read_as_it_was_written(tmp_path: Path) -> None:
    assert read_failure(tmp_path, 2) is None
    for message in ("several\nlines “quoted”", "", "  blank  "):
        failure = StageFailure("fault", "loading", message)
        write_failure(tmp_path, 2, failure)
        assert read_failure(tmp_path, 2) == failure
    assert read_failure(tmp_path, 1) is None

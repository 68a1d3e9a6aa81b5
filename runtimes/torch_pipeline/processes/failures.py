"""Failures of a stage, as told by the stage itself and by its launcher."""

import re
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from llmpq_sim.core.errors import LlmpqError
from llmpq_sim.core.fields import Fields
from llmpq_sim.io.files import read_json, write_json
from runtimes.torch_pipeline.processes.worker_files import PRIVATE_MODE

OUT_OF_MEMORY = ("not enough memory", "can't allocate memory", "Cannot allocate memory")
LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "NCCL")


@dataclass(frozen=True)
class StageFailure:
    """Why a stage ended.

    Attributes:
        kind: ``input`` (what it was given cannot be), ``memory``, ``peer`` (another stage is
            gone) or ``fault``.
        phase: ``loading`` or ``serving``.
        message: in words.
    """

    kind: str
    phase: str
    message: str


def failure_path(folder: Path, stage: int) -> Path:
    """Return where a stage says why it ended."""
    return folder / f"stage-{stage}.failure.json"


def write_failure(folder: Path, stage: int, failure: StageFailure) -> None:
    """Write down why a stage ends."""
    path = failure_path(folder, stage)
    write_json(path, asdict(failure))
    path.chmod(PRIVATE_MODE)


def read_failure(folder: Path, stage: int) -> StageFailure | None:
    """Return why a stage ended, or None where it did not say."""
    path = failure_path(folder, stage)
    if not path.exists():
        return None
    with Fields(read_json(path), path.name) as fields:
        return StageFailure(
            fields.choice("kind", ("input", "memory", "peer", "fault")),
            fields.text("phase"),
            str(fields.value("message")),
        )


def failure_of(error: BaseException, phase: str) -> StageFailure:
    """Return what an error of a stage means."""
    text = str(error)
    if isinstance(error, LlmpqError):
        return StageFailure("input", phase, text)
    if is_out_of_memory(error):
        return StageFailure("memory", phase, _allocation(text))
    if any(part in text for part in LOST_PEER):
        return StageFailure("peer", phase, text.splitlines()[0])
    return StageFailure("fault", phase, f"{type(error).__name__}: {text or 'no message'}")


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that there was no memory; PyTorch has no type for it on CPUs."""
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    return any(part in str(error) for part in OUT_OF_MEMORY)


def _allocation(text: str) -> str:
    """Return how much was asked for in one piece, from an allocator's message."""
    asked = re.search(r"tried to allocate (\d+) bytes|[Tt]ried to allocate ([\d.]+ [KMGT]iB)", text)
    if asked is None:
        return "an allocation failed"
    if asked.group(2):
        return f"an allocation of {asked.group(2)} failed"
    return f"an allocation of {int(asked.group(1)) / 2**20:.1f} MiB failed"

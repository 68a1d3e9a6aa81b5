"""Hidden-state store with resume.

In two files: what enters a layer is read from one and what leaves it is written to the other. After
a whole layer that is noted; whoever goes on from there has all that was written until then.
"""

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.format import open_memmap
from torch import Tensor

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, check_header
from llmpq_sim.io.files import read_json, write_json

SCHEMA = "llmpq/quality-progress"
VERSION = 1
FILES = ("even.npy", "odd.npy")
PROGRESS = "progress.json"

STORED: dict[int, np.dtype[Any]] = {2: np.dtype(np.int16), 4: np.dtype(np.int32)}
"""As which a type of so many bytes is stored, bit by bit; NumPy has no bfloat16."""


@dataclass(frozen=True)
class StreamsShape:
    """How large the streams are.

    Attributes:
        streams: sets of hidden states, that of the 16-bit model first.
        windows, tokens, hidden_size: of each.
        dtype: of their numbers.
    """

    streams: int
    windows: int
    tokens: int
    hidden_size: int
    dtype: torch.dtype

    @property
    def array_shape(self) -> tuple[int, int, int, int]:
        """Shape of each of the two files."""
        return self.streams, self.windows, self.tokens, self.hidden_size

    @property
    def stored_bytes(self) -> int:
        """Bytes of both files."""
        return 2 * int(np.prod(self.array_shape)) * self.dtype.itemsize


class Streams:
    """The hidden states of all windows in all streams, before and after a layer."""

    def __init__(self, folder: Path, shape: StreamsShape) -> None:
        self._folder = folder
        self._shape = shape
        self._files: list[np.memmap] = []

    def open(self, *, anew: bool) -> None:
        """Make the files, their room on the disk taken at once, or open those that are there.

        Raises:
            InputError: they cannot be written, or are not those of an earlier run.
        """
        mode = "w+" if anew else "r+"
        stored, shape = STORED[self._shape.dtype.itemsize], self._shape.array_shape
        try:
            self._files = [
                open_memmap(self._folder / name, mode=mode, dtype=stored, shape=shape)
                for name in FILES
            ]
            if anew:
                self._take_room()
        except (OSError, ValueError) as error:
            raise InputError(f"{self._folder}: cannot use its streams: {error}") from None
        if any(file.shape != shape or file.dtype != stored for file in self._files):
            raise InputError(f"{self._folder}: its streams are of another run; remove the folder")

    def _take_room(self) -> None:
        """Let a full disk be an error now, for a write to mapped memory would end the process."""
        if not hasattr(os, "posix_fallocate"):
            return
        for name in FILES:
            path = self._folder / name
            with path.open("r+b") as file:
                os.posix_fallocate(file.fileno(), 0, path.stat().st_size)

    def read(self, layers: int, stream: int, windows: slice) -> Tensor:
        """Return hidden states after so many layers. Shape: (windows, tokens, hidden size)."""
        stored = np.array(self._files[layers % 2][stream, windows])
        return torch.from_numpy(stored).view(self._shape.dtype)

    def write(self, layers: int, stream: int, windows: slice, hidden: Tensor) -> None:
        """Keep hidden states after so many layers, in the place of those two layers before."""
        file = self._files[layers % 2]
        bits = torch.int16 if file.dtype.itemsize == 2 else torch.int32
        file[stream, windows] = hidden.contiguous().view(bits).numpy()

    def flush(self, layers: int) -> None:
        """Bring the hidden states after so many layers to the disk."""
        self._files[layers % 2].flush()


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        layers: that all streams have passed.
        stream_s: seconds spent on each stream, that of the 16-bit model first.
        expert_choices: of the 16-bit model, how often each expert of each layer was chosen; nothing
            for a layer without experts.
    """

    layers: int
    stream_s: tuple[float, ...]
    expert_choices: tuple[tuple[int, ...], ...] = ()


def write_progress(folder: Path, run_sha256: str, progress: Progress) -> None:
    """Note how far a run is.

    Args:
        folder: of the streams.
        run_sha256: hash of all that the streams depend on.
        progress: after a whole layer.

    Raises:
        InputError: it cannot be written.
    """
    content = {
        "schema": SCHEMA,
        "version": VERSION,
        "run_sha256": run_sha256,
        "layers": progress.layers,
        "stream_s": list(progress.stream_s),
        "expert_choices": [list(choices) for choices in progress.expert_choices],
    }
    write_json(folder / PROGRESS, content)


def load_progress(folder: Path, run_sha256: str) -> Progress | None:
    """Return how far an interrupted run is, or None where there is none.

    Raises:
        InputError: the file is damaged, or of a run with other settings.
    """
    path = folder / PROGRESS
    if not path.exists():
        return None
    with Fields(read_json(path), str(path)) as fields:
        check_header(fields, SCHEMA, VERSION)
        if fields.text("run_sha256") != run_sha256:
            raise InputError(
                f"{folder}: is of a run with another model, text or settings; give those again, "
                "or remove the folder"
            )
        layers = fields.integer("layers", least=0)
        choices = fields.items("expert_choices")
        if len(choices) != layers or not all(isinstance(each, list) for each in choices):
            raise InputError(f"{path}: expected expert_choices, a list for each of {layers} layers")
        numbers = tuple(tuple(map(int, each)) for each in choices)
        return Progress(layers, fields.numbers("stream_s"), numbers)


def check_leftovers(folder: Path, *, resume: bool) -> None:
    """Check that no interrupted run would be lost.

    Raises:
        InputError: there is one, and it is not to be taken up again.
    """
    if not resume and (folder / PROGRESS).exists():
        raise InputError(
            f"{folder}: holds an interrupted run; go on with --resume, or remove the folder"
        )


def remove_streams(folder: Path) -> None:
    """Remove what a run kept, once its answer is written."""
    if folder.exists():
        shutil.rmtree(folder)

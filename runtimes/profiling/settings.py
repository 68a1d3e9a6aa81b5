"""Settings of a profile, and what the user gets back."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from llmpq_sim.core.machine import Machine
from runtimes.profiling.grid import FULL_GRID, QUICK_GRID, Grid
from runtimes.profiling.timing import FULL_EFFORT, QUICK_EFFORT, Effort

DEFAULT_MODELS = ("qwen2.5-0.5b",)


@dataclass(frozen=True)
class ProfileSettings:
    """What is profiled, and how thoroughly.

    Attributes:
        out: the ``.csv`` file of rows; the machine's facts go beside it.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        threads: of the CPU, or None for all cores of this process.
        models: names or folders of the models whose shapes are timed.
        formats: weight formats, or None for all that the device runs.
        is_quick: whether a few minutes must do.
        name: what rows call the device, or None for one made from the processor's name.
        resume: whether to go on with a file that is there.
        dtype: ``bf16``, ``fp16`` or ``fp32`` for activations and all that is not quantized; None
            for the first model's own.
        seed: of the order in which series are measured.
        neighbours: stages that keep other cores busy meanwhile, or None for all there is room for.
        uses_cuda_graphs: whether a GPU replays what was recorded, as a deployment with CUDA graphs.
        grid, effort: instead of those that ``is_quick`` stands for.
    """

    out: Path
    device: str = "cpu"
    threads: int | None = None
    models: tuple[str, ...] = DEFAULT_MODELS
    formats: tuple[str, ...] | None = None
    is_quick: bool = False
    name: str | None = None
    resume: bool = False
    dtype: str | None = None
    seed: int = 0
    neighbours: int | None = None
    uses_cuda_graphs: bool = False
    grid: Grid | None = None
    effort: Effort | None = None

    def records_on(self, device_type: str) -> bool:
        """Return whether kernels of a device are recorded and replayed."""
        return self.uses_cuda_graphs and device_type == "cuda"

    @property
    def sizes(self) -> Grid:
        """The grid that is measured."""
        return self.grid or (QUICK_GRID if self.is_quick else FULL_GRID)

    @property
    def timing_effort(self) -> Effort:
        """How much time each measurement may take."""
        return self.effort or (QUICK_EFFORT if self.is_quick else FULL_EFFORT)


@dataclass(frozen=True)
class ProfileProgress:
    """How far a profile is.

    Attributes:
        fraction: of the time it takes, 0 to 1.
        doing: what is timed now.
        left_s: about how long the rest takes; None before anything was timed.
    """

    fraction: float
    doing: str
    left_s: float | None


OnProgress = Callable[[ProfileProgress], None]


def ignore_profile_progress(_: ProfileProgress) -> None:
    """Show no progress."""


@dataclass(frozen=True)
class ProfileSummary:
    """What a profile came to.

    Attributes:
        rows_path, machine_path: the files that were written.
        rows: in the file.
        measured: of them in this run.
        disturbed: rows whose repeats differ by more than a tenth in spite of new attempts.
        too_long, too_large: points that were left out because a smaller one took too long, or
            because they do not fit into memory.
        dense_from_tokens: by format, tokens from which on decoding weights first is faster.
        machine: its facts.
        elapsed_s: time that the run took.
        neighbours: stages that kept other cores busy meanwhile.
    """

    rows_path: Path
    machine_path: Path
    rows: int
    measured: int
    disturbed: int
    too_long: int
    too_large: int
    dense_from_tokens: dict[str, int]
    machine: Machine
    elapsed_s: float
    neighbours: int = 0

"""CUDA graphs of decode steps, replayed without launching each kernel from Python.

Steps that decode the same rows of the cache are the same kernels on the same memory, but for what
enters and how long the contexts are. Such a step is recorded (a CUDA graph) and replayed with new
numbers in the same places. Contexts are rounded up, so that one recording serves many steps.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from runtimes.torch_pipeline.engine.kv_cache import StepLayout
from runtimes.torch_pipeline.engine.step import Step

SPAN_TOKENS = 256
"""Multiple to which contexts are rounded up. What attention reads too much is small beside weights,
and a recording takes about as long as some tens of steps."""

MOST_RECORDINGS = 64
"""The one that was not needed for longest makes room."""

Work = Callable[[], Any]
Compute = Callable[[StepLayout, torch.Tensor], torch.Tensor]
Key = tuple[int, int, int]


class Recorder(Protocol):
    """Turns work into something that repeats it."""

    def __call__(self, work: Work) -> Work:
        """Return what repeats work on the same tensors; its result lies in the same place."""


class CudaRecorder:
    """Records kernels as a CUDA graph; all recordings share their temporary memory."""

    def __init__(self) -> None:
        self._pool: tuple[int, int] = torch.cuda.graph_pool_handle()
        self._stream = torch.cuda.Stream()

    def __call__(self, work: Work) -> Work:
        """Record the kernels of work, which must have run before, and return their replay.

        ``torch.cuda.graph`` would collect garbage first, which takes longer than all the rest.
        """
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.stream(self._stream):
            # Threads that receive meanwhile may allocate: only this thread's calls are restricted.
            graph.capture_begin(self._pool, capture_error_mode="thread_local")
            try:
                out: Any = work()
            finally:
                graph.capture_end()

        def replay() -> Any:
            graph.replay()
            return out

        return replay

    def __deepcopy__(self, _: dict[int, object]) -> "CudaRecorder":
        """Return another recorder: a copy of a stage records for itself."""
        return CudaRecorder()


class RepeatedLayout(StepLayout):
    """The layout of decode steps that differ in their contexts alone.

    Attributes:
        span: context tokens that are read, of which a mask leaves each decode its own.
    """

    def __init__(self, step: Step, device: torch.device, span: int) -> None:
        super().__init__(step, device)
        self.span = span
        # All index tensors are made here: none can come from the host while kernels are recorded.
        self.decode_rows = self.decode_rows
        self.sampled_tokens = torch.arange(self.decodes, device=device)
        self.positions = self.decode_starts  # one tensor: a decode's position is its context

    def restart(self, step: Step) -> None:
        """Take the contexts of another step."""
        starts = [part.start for part in step.decodes]
        self.decode_starts.copy_(torch.tensor(starts, dtype=torch.int64))

    def forget_masks(self) -> None:
        """Let masks be made anew, as part of the work."""
        self._masks.clear()

    def decode_mask(self, tokens: int) -> torch.Tensor:
        """Return which of a row's first tokens each decode sees. Shape: (decodes, 1, 1, tokens)."""
        return self.mask_of_decodes(tokens)


@dataclass(frozen=True)
class CudaGraph:
    """A decode step that can be repeated.

    Attributes:
        layout: whose contexts are replaced.
        entering: what enters, replaced likewise.
        replay: repeats the work.
    """

    layout: RepeatedLayout
    entering: torch.Tensor
    replay: Work

    def run(self, step: Step, entering: torch.Tensor) -> torch.Tensor:
        """Return what a step becomes."""
        self.layout.restart(step)
        self.entering.copy_(entering)
        # What is returned may still be on its way when the next replay overwrites the result.
        return self.replay().clone()


class CudaGraphs:
    """The decode steps of a stage that were recorded; a step is when its like comes again."""

    def __init__(self, recorder: Recorder, device: torch.device, context_tokens: int) -> None:
        self._recorder = recorder
        self._device = device
        self._context_tokens = context_tokens
        self._known: OrderedDict[Key, CudaGraph | None] = OrderedDict()

    def run(self, step: Step, entering: torch.Tensor, compute: Compute) -> torch.Tensor:
        """Return what a step becomes, replayed where that can be.

        Args:
            step: the micro-batch.
            entering: what enters the stage.
            compute: the work itself, given where tokens are and what enters.
        """
        key = self._key(step)
        if key is None or key not in self._known:
            if key is not None:
                self._remember(key, None)
            return compute(StepLayout(step, self._device), entering)
        recording = self._known[key] or self._recorded(key, step, entering, compute)
        self._remember(key, recording)
        return recording.run(step, entering)

    def _key(self, step: Step) -> Key | None:
        """Return what equal recordings have in common; None for a step that is never recorded."""
        rows = [part.row for part in step.decodes]
        if not rows or step.chunks or not all(part.samples for part in step.decodes):
            return None
        if rows != list(range(rows[0], rows[0] + len(rows))):
            return None
        longest = max(part.start for part in step.decodes) + 1
        span = min(-(-longest // SPAN_TOKENS) * SPAN_TOKENS, self._context_tokens)
        return rows[0], len(rows), span

    def _remember(self, key: Key, recording: CudaGraph | None) -> None:
        self._known[key] = recording
        self._known.move_to_end(key)
        if len(self._known) > MOST_RECORDINGS:
            self._known.popitem(last=False)

    def _recorded(
        self, key: Key, step: Step, entering: torch.Tensor, compute: Compute
    ) -> CudaGraph:
        layout = RepeatedLayout(step, self._device, key[2])
        place = entering.clone()

        def work() -> torch.Tensor:
            layout.forget_masks()
            return compute(layout, place)

        return CudaGraph(layout, place, self._recorder(work))

"""Progress of a measurement, and the time that the rest will take."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from runtimes.quality.candidates import Candidate, formats_at


@dataclass(frozen=True)
class Work:
    """How much there is to do.

    Attributes:
        candidates: beside the 16-bit model.
        layers: of the model.
        head_passes: how many passes of a layer one of the LM head is worth.
    """

    candidates: Sequence[Candidate]
    layers: int
    head_passes: float

    @property
    def layer_passes(self) -> int:
        """How often all windows pass some layer."""
        return sum(self.passes_of(layer) for layer in range(self.layers))

    @property
    def model_passes(self) -> float:
        """As many forward passes of the whole model, LM head included, are as much work."""
        return (self.layer_passes + self.all_head_passes) / (self.layers + self.head_passes)

    @property
    def all_head_passes(self) -> float:
        """What all streams' passes of the LM head are worth, in passes of a layer."""
        return self.head_passes * (1 + len(self.candidates))

    def passes_of(self, layer: int) -> int:
        """Return how often a layer is passed: by the 16-bit model and by all that have started."""
        return 1 + sum(candidate.start <= layer for candidate in self.candidates)

    def loads_of(self, layer: int) -> int:
        """Return how often a layer is loaded: once in each format."""
        return 1 + len(formats_at(self.candidates, layer))


@dataclass(frozen=True)
class StreamProgress:
    """How far a measurement is.

    Attributes:
        layer: the layer at work, or the number of layers for the LM head.
        layers: of the model.
        fraction: of all passes.
        left_s: seconds that the rest should take; None until a whole layer was passed.
    """

    layer: int
    layers: int
    fraction: float
    left_s: float | None


class MeasurementProgress:
    """Counts what is done, and tells how long the rest takes at the same pace.

    Loading a layer and passing it are told apart, for few streams pass the first layers.
    """

    def __init__(
        self, work: Work, first_layer: int, on_progress: Callable[[StreamProgress], None]
    ) -> None:
        rest = range(first_layer, work.layers)
        self._work = work
        self._first_layer = first_layer
        self._on_progress = on_progress
        self._loads_left = float(sum(work.loads_of(layer) for layer in rest))
        self._passes_left = sum(work.passes_of(layer) for layer in rest) + work.all_head_passes
        self._total = work.layer_passes + work.all_head_passes
        self._loads, self._loading_s = 0, 0.0
        self._passes, self._passing_s = 0.0, 0.0

    def loaded(self, seconds: float) -> None:
        """Count a layer that was loaded."""
        self._loads += 1
        self._loads_left -= 1
        self._loading_s += seconds

    def passed(self, layer: int, seconds: float) -> None:
        """Count a pass of all windows through a layer."""
        self._count(layer, 1.0, seconds)

    def compared(self, windows: int, seconds: float) -> None:
        """Count the passes of all streams through the LM head, for one of so many windows."""
        self._count(self._work.layers, self._work.all_head_passes / windows, seconds)

    def _count(self, layer: int, passes: float, seconds: float) -> None:
        self._passes += passes
        self._passes_left -= passes
        self._passing_s += seconds
        left_s = None if layer == self._first_layer else self._left_s()
        fraction = min(1.0, 1.0 - self._passes_left / self._total)
        self._on_progress(StreamProgress(layer, self._work.layers, fraction, left_s))

    def _left_s(self) -> float:
        per_load_s = self._loading_s / self._loads
        return per_load_s * self._loads_left + self._passing_s / self._passes * self._passes_left

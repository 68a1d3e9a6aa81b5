"""Streaming of all candidates through a model with one layer in memory at a time.

The 16-bit model and every candidate that has started are streams of hidden states. Each layer is
loaded once in each format, all streams that need it pass, and it is dropped. At the end the LM head
turns hidden states into predictions, which are compared token by token.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from torch import Tensor

from llmpq_sim.core.errors import InputError
from runtimes.quality.candidates import Candidate, formats_at, passing
from runtimes.quality.divergence import (
    all_finite,
    cross_entropy_nats,
    divergence_nats,
    log_probabilities,
)
from runtimes.quality.expert_choices import counted_choices
from runtimes.quality.layer_stages import LayerSource, run_head, run_windows
from runtimes.quality.progress import MeasurementProgress, StreamProgress, Work
from runtimes.quality.streams import (
    Progress,
    Streams,
    StreamsShape,
    load_progress,
    remove_streams,
    write_progress,
)
from runtimes.torch_pipeline.engine.stage import Stage
from runtimes.torch_pipeline.weights.loading import DTYPE_NAMES, release_freed_memory

REFERENCE = 0
"""The stream of the 16-bit model; candidates follow in their order."""

HEAD_TOKENS = 128
"""Tokens whose logits are compared at once: 262 MB in float64 for a vocabulary of 128,000."""


@dataclass(frozen=True)
class Run:
    """What is streamed.

    Attributes:
        source: the model.
        windows: token ids, (windows, tokens).
        candidates: assignments to compare with the 16-bit model.
        plain: name of the format in which layers are not quantized.
        folder: where streams are kept; it must be there.
        sha256: hash of all of this, by which an interrupted run is known.
        hidden_size: of the model.
        head_passes: how many passes of a layer the LM head is worth.
        clock: seconds.
    """

    source: LayerSource
    windows: Tensor
    candidates: Sequence[Candidate]
    plain: str
    folder: Path
    sha256: str
    hidden_size: int
    head_passes: float
    clock: Callable[[], float]

    @property
    def work(self) -> Work:
        """How much there is to do."""
        return Work(self.candidates, self.source.layers, self.head_passes)

    @property
    def shape(self) -> StreamsShape:
        """Of the streams: one of the 16-bit model, and one of each candidate."""
        windows, tokens = self.windows.shape
        streams = 1 + len(self.candidates)
        return StreamsShape(streams, windows, tokens, self.hidden_size, self.source.dtype)

    @property
    def batches(self) -> list[slice]:
        """Windows that pass a layer together."""
        at_once = self.source.windows_at_once
        return [slice(i, i + at_once) for i in range(0, len(self.windows), at_once)]


@dataclass(frozen=True)
class Compared:
    """What came of the streams, per window.

    Attributes:
        divergence_nats: mean token KL of each candidate, (candidates, windows).
        cross_entropy_nats: mean over the tokens after the first, of the 16-bit model and then each
            candidate, (1 + candidates, windows).
        stream_s: seconds spent on the 16-bit model and on each candidate.
        expert_choices: of the 16-bit model, how often each expert of each layer was chosen; nothing
            for a layer without experts.
    """

    divergence_nats: np.ndarray
    cross_entropy_nats: np.ndarray
    stream_s: tuple[float, ...]
    expert_choices: tuple[tuple[int, ...], ...] = ()


def stream(run: Run, *, resume: bool, on_progress: Callable[[StreamProgress], None]) -> Compared:
    """Return how far each candidate is from the 16-bit model.

    Args:
        run: what is streamed.
        resume: whether to go on with what is in the run's folder, if there is anything.
        on_progress: told after every pass.

    Raises:
        InputError: the model's folder is damaged, its 16-bit model gives numbers that are not
            finite, or what is to be taken up again is of another run.
    """
    streams = Streams(run.folder, run.shape)
    found = load_progress(run.folder, run.sha256) if resume else None
    streams.open(anew=found is None)
    done = found or _begin(run, streams)
    progress = MeasurementProgress(run.work, done.layers, on_progress)
    spent, choices = np.array(done.stream_s), list(done.expert_choices)
    for layer in range(done.layers, run.source.layers):
        choices.append(_pass_layer(run, streams, (layer, run.plain), spent, progress))
        for format_name in formats_at(run.candidates, layer):
            _pass_layer(run, streams, (layer, format_name), spent, progress)
        streams.flush(layer + 1)
        passed = Progress(layer + 1, tuple(spent.tolist()), tuple(choices))
        write_progress(run.folder, run.sha256, passed)
    return replace(_compare(run, streams, spent, progress), expert_choices=tuple(choices))


def _begin(run: Run, streams: Streams) -> Progress:
    """Embed all windows."""
    stage = run.source.embedding()
    for batch in run.batches:
        streams.write(0, REFERENCE, batch, run_windows(stage, run.windows[batch]))
    streams.flush(0)
    begun = Progress(0, (0.0,) * (1 + len(run.candidates)))
    write_progress(run.folder, run.sha256, begun)
    return begun


def _pass_layer(
    run: Run,
    streams: Streams,
    at: tuple[int, str],
    spent: np.ndarray,
    progress: MeasurementProgress,
) -> tuple[int, ...]:
    """Let all streams that need a layer in a format pass it; the time of loading is shared out.

    Returns:
        How often the 16-bit model chose each expert of the layer, if it was among them.
    """
    layer, format_name = at
    passes = [
        (1 + number, REFERENCE if starts else 1 + number)
        for number, starts in passing(run.candidates, layer, format_name)
    ]
    if format_name == run.plain:
        passes = [(REFERENCE, REFERENCE), *passes]
    began = run.clock()
    stage = run.source.layer(layer, format_name)
    loading_s = run.clock() - began
    progress.loaded(loading_s)
    choices: list[int] = []
    for stream_number, entering in passes:
        began = run.clock()
        is_reference = stream_number == REFERENCE
        with counted_choices(stage) if is_reference else nullcontext(choices) as choices:
            for batch in run.batches:
                hidden = run_windows(stage, streams.read(layer, entering, batch))
                if is_reference:
                    _check_finite(run, hidden, batch.start, f"layer {layer}")
                streams.write(layer + 1, stream_number, batch, hidden)
        passing_s = run.clock() - began
        spent[stream_number] += passing_s + loading_s / len(passes)
        progress.passed(layer, passing_s)
    del stage
    release_freed_memory()
    return tuple(choices)


def _compare(
    run: Run, streams: Streams, spent: np.ndarray, progress: MeasurementProgress
) -> Compared:
    count, windows = len(run.candidates), len(run.windows)
    divergence = np.zeros((count, windows))
    entropy = np.zeros((1 + count, windows))
    head = run.source.head()
    for window in range(windows):
        began = run.clock()
        for part in _parts(run, window, streams, head):
            divergence[:, window] += part[0]
            entropy[:, window] += part[1]
        window_s = run.clock() - began
        spent += window_s / (1 + count)
        progress.compared(windows, window_s)
    tokens = run.windows.shape[1]
    return Compared(divergence / tokens, entropy / (tokens - 1), tuple(spent.tolist()))


def _parts(
    run: Run, window: int, streams: Streams, head: Stage
) -> Iterator[tuple[list[float], list[float]]]:
    """Yield sums of KL per candidate and of cross-entropy per stream, over some tokens each."""
    following = run.windows[window, 1:].to(run.source.device)
    layers = run.source.layers

    def logits_of(candidate: int, tokens: slice) -> Tensor:
        number = _last_stream(run, candidate)
        hidden = streams.read(layers, number, slice(window, window + 1))[0, tokens]
        return run_head(head, hidden)

    for start in range(0, run.windows.shape[1], HEAD_TOKENS):
        tokens = slice(start, start + HEAD_TOKENS)
        targets = following[tokens]
        logits = logits_of(-1, tokens)
        _check_finite(run, logits[None], window, "the LM head")
        reference = log_probabilities(logits)
        divergence: list[float] = []
        entropy = [_summed(cross_entropy_nats(reference[: len(targets)], targets))]
        for number in range(len(run.candidates)):
            candidate = log_probabilities(logits_of(number, tokens))
            divergence.append(_summed(divergence_nats(reference, candidate)))
            entropy.append(_summed(cross_entropy_nats(candidate[: len(targets)], targets)))
        yield divergence, entropy


def _last_stream(run: Run, candidate: int) -> int:
    """Return the stream of a candidate at the end: the 16-bit model's where it never started."""
    never = candidate < 0 or run.candidates[candidate].start == run.source.layers
    return REFERENCE if never else 1 + candidate


def _summed(values: Tensor) -> float:
    return float(values.sum())


def _check_finite(run: Run, values: Tensor, first_window: int, where: str) -> None:
    """Raise InputError, and keep nothing, if the 16-bit model gives other than finite numbers."""
    if all_finite(values):
        return
    remove_streams(run.folder)  # there is nothing in them to go on with
    window = next(i for i, part in enumerate(values, first_window) if not all_finite(part))
    dtype = DTYPE_NAMES[run.source.dtype]
    hint = "--dtype bf16 has a wider range" if dtype == "fp16" else "its weights may be damaged"
    raise InputError(
        f"window {window} of the text: after {where} the 16-bit model gives numbers that are not "
        f"finite in {dtype}; {hint}"
    )

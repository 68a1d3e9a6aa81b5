"""Timeline of a simulation for Perfetto and chrome://tracing.

Events are written as they happen, in the Trace Event Format: stages are tracks of a process, the
steps of micro-batches slices on them, KV blocks in use and requests that wait counters. Several
processes show one plan as it was carried out several times. Times are in microseconds.
"""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from llmpq_sim.core.units import US
from llmpq_sim.io.files import whole_file

MOST_SLICES = 200_000
"""Beyond so many steps a timeline ends: about 25 MB, which viewers open in seconds."""

PROCESS = 1
"""Number of the first process, that of a simulation."""

PIPELINE = ("pipeline",)


class Timeline:
    """Takes down steps of stages, up to a number of them.

    Attributes:
        slices: written so far.
        end_s: when the last of them ended.
        is_cut: whether later steps were left out.
    """

    def __init__(
        self,
        stream: BinaryIO,
        tracks: Sequence[str],
        most_slices: int,
        processes: Sequence[str] = PIPELINE,
    ) -> None:
        self.slices, self.end_s, self.is_cut = 0, 0.0, False
        self._stream = stream
        self._most_slices = most_slices
        self._labels: dict[int, tuple[int, int]] = {}
        self._batches = 0
        self._last_stage = len(tracks) - 1
        self._counted: dict[str, int] = {}
        stream.write(b'{"displayTimeUnit": "ms", "traceEvents": [\n')
        events: list[dict[str, Any]] = []
        for process, name in enumerate(processes, PROCESS):
            events += _names(process, name, tracks)
        stream.write(",\n".join(json.dumps(event) for event in events).encode())

    def step(self, stage: int, batch: int, began_s: float, ended_s: float) -> None:
        """Take down a step of a batch that `batch` told of."""
        decodes, prompt_tokens = self._labels.get(batch, (0, 0))
        if stage == self._last_stage:
            self._labels.pop(batch, None)
        arguments = {"batch": batch, "decodes": decodes, "prompt_tokens": prompt_tokens}
        self.slice(stage, phase_of(decodes, prompt_tokens), (began_s, ended_s), arguments)

    def batch(
        self, at_s: float, decodes: int, prompt_tokens: int, kv_blocks: int, waiting: int
    ) -> None:
        """Take down what a batch holds, and how full the pipeline is."""
        if self.is_cut:
            return
        self._labels[self._batches] = (decodes, prompt_tokens)
        self._batches += 1
        self._count("KV blocks in use", at_s, kv_blocks)
        self._count("requests waiting", at_s, waiting)

    def slice(
        self,
        stage: int,
        name: str,
        instants_s: tuple[float, float],
        arguments: dict[str, int],
        process: int = 0,
    ) -> None:
        """Take down what a stage did between two instants, in the process at this place."""
        if self.slices == self._most_slices:
            self.is_cut = True
            return
        began_s, ended_s = instants_s
        self.slices, self.end_s = self.slices + 1, ended_s
        self._write(
            {
                "name": name,
                "cat": "visit",
                "ph": "X",
                "ts": _us(began_s),
                "dur": round(_us(ended_s) - _us(began_s), 3),
                "pid": PROCESS + process,
                "tid": stage + 1,
                "args": arguments,
            }
        )

    def close(self) -> None:
        """End the list of events."""
        self._stream.write(b"\n]}\n")

    def _count(self, name: str, at_s: float, value: int) -> None:
        if self._counted.get(name) != value:
            self._counted[name] = value
            event = {"name": name, "ph": "C", "ts": _us(at_s), "pid": PROCESS}
            self._write({**event, "args": {"value": value}})

    def _write(self, event: dict[str, Any]) -> None:
        self._stream.write(f",\n{json.dumps(event)}".encode())


@contextmanager
def timeline_file(
    path: Path,
    tracks: Sequence[str],
    most_slices: int = MOST_SLICES,
    processes: Sequence[str] = PIPELINE,
) -> Iterator[Timeline]:
    """Give a timeline that is written to a file, whole or not at all.

    Args:
        path: of the file.
        tracks: name of each stage.
        most_slices: steps after which it ends.
        processes: name of each execution of the pipeline, all with the same stages.

    Raises:
        InputError: it cannot be written.
    """
    with whole_file(path) as stream:
        timeline = Timeline(stream, tracks, most_slices, processes)
        yield timeline
        timeline.close()


def timeline_text(timeline: Timeline, name: str) -> str:
    """Return what a timeline holds, and where it ends if that is early."""
    if not timeline.is_cut:
        return f"Wrote {name}: {timeline.slices} visits, for ui.perfetto.dev."
    return (
        f"Wrote {name}, for ui.perfetto.dev: the first {timeline.slices} visits, up to "
        f"{timeline.end_s:.1f} s."
    )


def phase_of(decodes: int, prompt_tokens: int) -> str:
    """Return what a micro-batch with so many decodes and prompt tokens does."""
    if decodes and prompt_tokens:
        return "mixed"
    return "prefill" if prompt_tokens else "decode"


def _names(process: int, name: str, tracks: Sequence[str]) -> list[dict[str, Any]]:
    names = [("process_name", 0, name)]
    names += [("thread_name", number + 1, track) for number, track in enumerate(tracks)]
    events = [_metadata(process, kind, track, {"name": text}) for kind, track, text in names]
    return events + [
        _metadata(process, "thread_sort_index", number + 1, {"sort_index": number})
        for number in range(len(tracks))
    ]


def _metadata(process: int, kind: str, track: int, arguments: dict[str, Any]) -> dict[str, Any]:
    return {"name": kind, "ph": "M", "pid": process, "tid": track, "args": arguments}


def _us(time_s: float) -> float:
    return round(time_s / US, 3)

"""Requests drawn from ServeGen's client rates and length histograms.

ServeGen publishes no requests but, per client, the rate and the law of gaps in windows of 600 s and
histograms of lengths. Source: Xiang et al., ServeGen, arXiv:2505.09999, and its data folder.
"""

import csv
import math
import re
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np

from llmpq_sim.core.errors import InputError, library_errors
from llmpq_sim.core.limits import LARGEST_ARCHIVE_BYTES, LARGEST_FILE_BYTES
from llmpq_sim.core.trace import FloatArray, IntArray, TraceWorkload
from llmpq_sim.io.files import open_regular, parse_json, read_text
from llmpq_sim.io.traces.rows import Place, cell_time
from llmpq_sim.workloads.lengths import whole
from llmpq_sim.workloads.randomness import Streams

DEFAULT_REQUESTS = 10_000
WINDOW_S = 600.0
LEAST_SHAPE = {"Gamma": 1e-4, "Weibull": 0.1}
"""Least shape of each law of gaps; below it, next to all gaps are 0."""
HIGHEST_RATE_PER_S = 10_000.0
_FILE = re.compile(r"chunk-(\d+)-(trace\.csv|dataset\.json)")
_NEEDED = "files chunk-<n>-trace.csv and chunk-<n>-dataset.json"


@dataclass(frozen=True)
class Histogram:
    """How often each length occurs: tokens and their cumulative probability."""

    tokens: FloatArray
    cumulative: FloatArray

    def draw(self, count: int, rng: np.random.Generator) -> IntArray:
        """Return independent lengths."""
        drawn = np.searchsorted(self.cumulative, rng.random(count), side="right")
        return whole(self.tokens[np.minimum(drawn, len(self.tokens) - 1)])


@dataclass(frozen=True)
class Activity:
    """A client's requests in one window: their rate, and the law and shape of their gaps."""

    rate_per_s: float
    law: str
    shape: float

    def instants(self, rng: np.random.Generator) -> FloatArray:
        """Return instants within a window, a renewal process of this rate."""
        gaps: list[FloatArray] = []
        end_s, begun = 0.0, 16 + round(1.2 * self.rate_per_s * WINDOW_S)
        while end_s < WINDOW_S:
            drawn = self._gaps(begun, rng)
            if not gaps:
                drawn[0] *= rng.random()  # the window begins anywhere in a gap
            gaps.append(drawn)
            end_s += float(drawn.sum())
        instant_s: FloatArray = np.cumsum(np.concatenate(gaps))
        return instant_s[instant_s < WINDOW_S]

    def _gaps(self, count: int, rng: np.random.Generator) -> FloatArray:
        mean_s = 1 / self.rate_per_s
        if self.law == "Weibull":
            return rng.weibull(self.shape, count) * (mean_s / math.gamma(1 + 1 / self.shape))
        return rng.gamma(self.shape, mean_s / self.shape, count)


@dataclass(frozen=True)
class Client:
    """What one client sends: activities and pairs of length histograms by when they begin."""

    activities: dict[float, Activity]
    lengths: dict[float, tuple[Histogram, Histogram]]

    def lengths_at(self, instant_s: float) -> tuple[Histogram, Histogram]:
        """Return the histograms of prompts and outputs of the nearest window that has any."""
        return self.lengths[min(self.lengths, key=lambda begin_s: abs(begin_s - instant_s))]


def sample_servegen(path: Path, requests: int, rng: np.random.Generator) -> TraceWorkload:
    """Return the first requests that the clients of a ServeGen folder or archive send.

    Raises:
        InputError: it holds no clients, or their files say something that cannot be.
    """
    clients = _clients(path)
    streams = Streams(rng)
    begins = sorted({begin_s for client in clients for begin_s in client.activities})
    parts: list[tuple[FloatArray, IntArray, IntArray]] = []
    drawn = 0
    for begin_s in begins:
        for number, client in enumerate(clients):
            if begin_s in client.activities:
                stream = streams.named(f"client {number} at {begin_s:g}")
                parts.append(_window(client, begin_s, stream))
                drawn += len(parts[-1][0])
        if drawn >= requests:
            break
    if drawn == 0:
        raise InputError(f"{path.name}: expected clients that send requests, got none that do")
    instant_s, prompt_tokens, output_tokens = (np.concatenate(c) for c in zip(*parts, strict=True))
    order = np.argsort(instant_s, kind="stable")[:requests]
    return TraceWorkload(
        path.name.removesuffix(".gz").removesuffix(".tar"),
        instant_s[order] - instant_s[order[0]],
        prompt_tokens[order],
        output_tokens[order],
        notes=(f"drawn from the rates and lengths of {len(clients)} ServeGen clients",),
    )


def _window(
    client: Client, begin_s: float, rng: np.random.Generator
) -> tuple[FloatArray, IntArray, IntArray]:
    instant_s = begin_s + client.activities[begin_s].instants(rng)
    prompts, outputs = client.lengths_at(begin_s)
    return instant_s, prompts.draw(len(instant_s), rng), outputs.draw(len(instant_s), rng)


# ---- files


def _clients(path: Path) -> list[Client]:
    folders: dict[str, dict[str, dict[str, str]]] = {}
    for folder, number, kind, text in _folder_files(path) if path.is_dir() else _tar_files(path):
        folders.setdefault(folder, {}).setdefault(number, {})[kind] = text
    if len(folders) != 1:
        found = ", ".join(sorted(folders)) or "none"
        raise InputError(f"{path.name}: expected one folder with {_NEEDED}, got {found}")
    clients = []
    for number, texts in next(iter(folders.values())).items():
        name = f"{path.name}: chunk-{number}"
        if len(texts) < 2:
            raise InputError(f"{name}: expected {_NEEDED}, got only {next(iter(texts))}")
        activities = _activities(texts["trace.csv"], f"{name}-trace.csv")
        lengths = _lengths(texts["dataset.json"], f"{name}-dataset.json")
        if activities and not lengths:
            raise InputError(f"{name}-dataset.json: expected lengths, as it sends requests")
        clients.append(Client(activities, lengths))
    return clients


def _folder_files(path: Path) -> Iterator[tuple[str, str, str, str]]:
    for file in sorted(path.rglob("chunk-*")):
        if match := _FILE.fullmatch(file.name):
            yield str(file.parent), match[1], match[2], read_text(file)


def _tar_files(path: Path) -> Iterator[tuple[str, str, str, str]]:
    """Yield the files of an archive; nothing is unpacked to disk."""
    left_bytes = LARGEST_ARCHIVE_BYTES
    with (
        open_regular(path) as stream,
        library_errors(f"{path.name}: expected a tar archive"),
        tarfile.open(fileobj=stream) as archive,
    ):
        for member in archive:
            left_bytes -= member.size
            name = PurePosixPath(member.name)
            match = _FILE.fullmatch(name.name)
            if left_bytes < 0 or (match and member.size > LARGEST_FILE_BYTES):
                raise InputError(f"{path.name}: {name} is too large")
            content = archive.extractfile(member) if match and member.isfile() else None
            if match is None or content is None:
                continue
            text = content.read().decode("utf-8-sig", errors="replace")
            yield str(name.parent), match[1], match[2], text


def _activities(text: str, name: str) -> dict[float, Activity]:
    """Return the windows in which a client sends: start, rate, variation, law, shape, scale.

    The scale is not used: with the shape it gives another rate than the stated one where requests
    fill only a part of the window.
    """
    activities = {}
    for line, cells in enumerate(_table(text, name), start=1):
        place = Place(name, line)
        if len(cells) != 6:
            raise place.wrong("columns", "6 cells", f"{len(cells)} cells")
        begin_s, rate_per_s = (cell_time(cells[at], f"column {at + 1}", place) for at in (0, 1))
        if rate_per_s <= 0 or not cells[3]:
            continue
        shape = cell_time(cells[4], "column 5", place)
        if not LEAST_SHAPE.get(cells[3], math.inf) <= shape <= 1e6:
            raise place.wrong(
                "columns 4 and 5", "Gamma or Weibull and a shape", ",".join(cells[3:5])
            )
        if rate_per_s > HIGHEST_RATE_PER_S:
            raise place.wrong("column 2", f"at most {HIGHEST_RATE_PER_S:g} requests/s", rate_per_s)
        activities[begin_s] = Activity(rate_per_s, cells[3], shape)
    return activities


def _table(text: str, name: str) -> list[list[str]]:
    with library_errors(f"{name}: not CSV"):
        return list(csv.reader(text.splitlines()))


def _lengths(text: str, name: str) -> dict[float, tuple[Histogram, Histogram]]:
    content = parse_json(text, name)
    if not isinstance(content, dict):
        raise InputError(f"{name}: expected an object by the start of a window")
    lengths = {}
    for begin, laws in content.items():
        if not isinstance(laws, dict) or "input_tokens" not in laws or "output_tokens" not in laws:
            raise InputError(
                f"{name}: expected input_tokens and output_tokens in window {begin}; multimodal "
                "clients are not supported"
            )
        prompts, outputs = (
            _histogram(laws[key], name) for key in ("input_tokens", "output_tokens")
        )
        if prompts is not None and outputs is not None:
            lengths[cell_time(begin, "window", Place(name, 1))] = prompts, outputs
    return lengths


def _histogram(text: object, name: str) -> Histogram | None:
    """Return the histogram that a text such as ``{45: 0.25, 46: 0.75}`` states, None if empty."""
    if not isinstance(text, str) or not text.startswith("{") or not text.endswith("}"):
        raise InputError(f"{name}: expected a histogram such as {{45: 0.25, 46: 0.75}} as text")
    pairs = [entry.partition(":") for entry in text[1:-1].split(",") if entry.strip()]
    place = Place(name, 1)
    tokens = np.array([cell_time(key, "tokens", place) for key, _, _ in pairs])
    shares = np.array([cell_time(share, "share", place) for _, _, share in pairs])
    if len(pairs) == 0:
        return None
    if shares.min() < 0 or shares.sum() <= 0:
        raise InputError(f"{name}: expected shares of at least 0 that are not all 0")
    return Histogram(tokens, np.cumsum(shares) / shares.sum())

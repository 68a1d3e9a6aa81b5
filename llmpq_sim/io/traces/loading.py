"""Loader of traces in every known format."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from llmpq_sim.core.errors import InputError, encodable
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.io.files import is_folder
from llmpq_sim.io.traces.collecting import (
    PER_SECOND,
    Collection,
    TimeUnit,
    counted,
    spread_ticks,
)
from llmpq_sim.io.traces.detection import (
    SERVEGEN,
    TraceFormat,
    detected_format,
    format_named,
    format_of_columns,
    is_tar,
)
from llmpq_sim.io.traces.named_columns import unit_by_size
from llmpq_sim.io.traces.rows import Reading
from llmpq_sim.io.traces.servegen import DEFAULT_REQUESTS, sample_servegen
from llmpq_sim.io.traces.text_formats import token_counter
from llmpq_sim.workloads.shaping import drop_overlong, noted, truncate_overlong

Overlong = Literal["error", "drop", "truncate"]
PLAUSIBLE_RATES_PER_S = (0.001, 1000.0)
MAY_BE_SECONDS = (
    "warning: whole times of requests without blocks are read in ms, as Mooncake has them; "
    "GuideLLM writes seconds under the same keys: if so, give --time-unit s"
)
ENDINGS = (".gz", ".tar", ".csv", ".jsonl", ".json")


def load_trace(
    path: Path,
    *,
    trace_format: str | None = None,
    columns: str | None = None,
    time_unit: TimeUnit | None = None,
    tokenizer: Path | None = None,
    chars_per_token: float | None = None,
    limit: int | None = None,
    keep_failed: bool = False,
    longest_context_tokens: int | None = None,
    overlong: Overlong = "error",
    devices: int | None = 1,
    rng: np.random.Generator,
) -> TraceWorkload:
    """Return the requests a trace records.

    The file may be packed by gzip and of any size: it is read once, a piece at a time. Its format
    is told from its first 64 KiB. Whatever was assumed or left out is in the workload's notes.

    Args:
        path: the file; for ServeGen, a folder or a tar archive, from which requests are drawn.
        trace_format: name of the format, if it is not to be told from the content.
        columns: names of its columns, such as ``time=ts,prompt=in,output=out``, instead.
        time_unit: unit of times, where the format's own is not meant.
        tokenizer: a ``tokenizer.json``, to count the tokens of formats that hold texts.
        chars_per_token: counts them by characters instead.
        limit: requests to read, the first ones of the file; for ServeGen, to draw.
        keep_failed: whether to keep requests without output, as if they generated one token.
        longest_context_tokens: most tokens of a prompt and its output together, if any.
        overlong: what to do with requests that have more.
        devices: that serve them; the rate of each tells an unlikely unit of times. None where
            times are not used.
        rng: draws instants inside a recorder's ticks, and ServeGen's requests.

    Raises:
        InputError: the file cannot be read, is of no known format, or says what cannot be.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit: expected at least 1 request, got {limit}")
    if time_unit is not None and time_unit not in PER_SECOND:
        raise InputError(f"--time-unit: expected one of s, ms, us, ns, got {time_unit!r}")
    if columns is not None and trace_format is not None:
        raise InputError("--columns: expected either columns or --trace-format, got both")
    if columns is None and (
        is_folder(path) or trace_format == SERVEGEN or (trace_format is None and is_tar(path))
    ):
        workload = sample_servegen(path, limit or DEFAULT_REQUESTS, rng)
    else:
        item = _format(path, trace_format, columns)
        counter = token_counter(path.name, tokenizer, chars_per_token)
        reading = Reading(path, counter)
        workload = _read(item, reading, time_unit, limit, keep_failed, devices)
        workload = _spread(workload, rng) if item.in_ticks else workload
    if longest_context_tokens is None:
        return workload
    return _shortened(workload, longest_context_tokens, overlong)


def _format(path: Path, name: str | None, columns: str | None) -> TraceFormat:
    if columns is not None:
        return format_of_columns(columns, path)
    return format_named(name, path) if name else detected_format(path)


def _read(
    item: TraceFormat,
    reading: Reading,
    time_unit: TimeUnit | None,
    limit: int | None,
    keep_failed: bool,
    devices: int | None,
) -> TraceWorkload:
    """Return the requests of a file, its times as they are stated."""
    collection = Collection(reading.path.name, keep_failed, reading.dropped)
    for row in item.rows(reading):
        collection.add(row)
        if limit is not None and len(collection) == limit:
            break
    collection.check_not_empty()
    unit, unit_note = _unit(item, collection, reading.dated, time_unit)
    workload = collection.workload(
        _name(reading.path), unit, reading.block_tokens or item.block_tokens
    )
    notes = [f"read as {item.name}", unit_note, *reading.notes]
    if reading.dropped:
        notes.append(f"dropped of {collection.rows} rows: {counted(reading.dropped)}")
    if collection.kept_failed:
        notes.append(f"failed requests kept, with 1 output token each: {collection.kept_failed}")
    workload = replace(workload, notes=(*notes, *workload.notes))
    assumed = collection.timed and time_unit is None and not _is_dated(item, reading.dated)
    return noted(workload, *_doubts(workload, assumed, devices))


def _unit(
    item: TraceFormat, collection: Collection, dated: bool | None, asked: TimeUnit | None
) -> tuple[TimeUnit, str]:
    """Return the unit of a file's times, and a sentence that says why."""
    if item.unit is None or not collection.timed:
        if asked is not None:
            raise InputError(f"--time-unit: {collection.name} has no times")
        return "s", "no arrival times: all requests are present at the start"
    if _is_dated(item, dated):
        if asked is not None:
            raise InputError(f"--time-unit: the times of {collection.name} are dates")
        return "ns", "times are dates; those without an offset are taken as UTC"
    if asked is not None:
        return asked, f"times in {asked}, as asked"
    return _assumed_unit(item, collection)


def _assumed_unit(item: TraceFormat, collection: Collection) -> tuple[TimeUnit, str]:
    """Return the unit that a format or its content tells, and a sentence that says why."""
    unit, why = item.unit or "s", "as the format has them"
    if item.unit_by_size:
        unit = unit_by_size(collection.first_time)
        why = "as their size tells; if not, give --time-unit"
    elif item.unit_by_content and collection.has_blocks:
        why = "as Mooncake has them; if not, give --time-unit"
    elif item.unit_by_content and collection.fractional:
        unit, why = "s", "as some have fractions; if not, give --time-unit"
    elif item.unit_by_content:
        why = "as Mooncake has them; if not, give --time-unit"
        if not collection.has_sessions:
            return unit, MAY_BE_SECONDS
    return unit, f"times in {unit}, {why}"


def _is_dated(item: TraceFormat, dated: bool | None) -> bool:
    """Return whether times are dates, whose unit is never in doubt."""
    return item.name == "azure" or bool(dated)


def _doubts(workload: TraceWorkload, assumed_unit: bool, devices: int | None) -> list[str]:
    """Return sentences about what may not be meant."""
    if workload.requests == 1:
        return ["only one request: it has no rate"]
    rate = workload.rate_per_s
    low, high = PLAUSIBLE_RATES_PER_S
    if devices is None or rate is None or not assumed_unit:
        return []
    if not low <= rate / devices <= high:
        return [
            f"warning: {rate:.3g} requests/s on average for {devices} device(s); is the time unit "
            "right? if not, give --time-unit s, ms, us or ns"
        ]
    return []


def _spread(workload: TraceWorkload, rng: np.random.Generator) -> TraceWorkload:
    found = spread_ticks(workload.arrival_s, rng)
    if found is None:
        return workload
    arrival_s, tick_s = found
    note = f"most stamps repeat: spread uniformly inside ticks of {tick_s:g} s"
    return noted(replace(workload, arrival_s=arrival_s), note)


def _shortened(workload: TraceWorkload, longest: int, overlong: Overlong) -> TraceWorkload:
    if overlong == "drop":
        return drop_overlong(workload, longest)
    if overlong == "truncate":
        return truncate_overlong(workload, longest)
    context_tokens = workload.context_tokens
    if beyond := int((context_tokens > longest).sum()):
        raise InputError(
            f"{workload.name}: {beyond} of {workload.requests} requests exceed the longest context "
            f"of {longest} tokens, the longest takes {context_tokens.max()}; give --overlong drop "
            "or --overlong truncate"
        )
    return workload


def _name(path: Path) -> str:
    name = encodable(path.name)
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    return name or encodable(path.name)

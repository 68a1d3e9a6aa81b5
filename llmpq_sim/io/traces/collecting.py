"""Collection of rows into a workload: seconds, in order, failed requests left out."""

from array import array
from collections import Counter
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.limits import LONGEST_TRACE_S
from llmpq_sim.core.trace import FloatArray, IntArray, TraceWorkload
from llmpq_sim.io.traces.rows import Row

TimeUnit = Literal["s", "ms", "us", "ns"]
PER_SECOND: dict[TimeUnit, float] = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
SHARE_OF_REPEATED_STAMPS = 0.5
BLOCK_TOKENS = (512, 256, 128, 64, 32, 16)
NO_SESSION = -1


@dataclass
class Collection:
    """Requests collected row by row in flat arrays, so that long traces fit.

    Attributes:
        name: of the file, for messages.
        keep_failed: whether requests without output stay, with one token.
        dropped: rows left out, by reason.
        kept_failed: rows that stayed though they had no output.
        fractional: whether any time is no whole number.
    """

    name: str
    keep_failed: bool
    dropped: Counter[str]
    kept_failed: int = 0
    fractional: bool = False
    _origin: float | None = None
    _timed: int = 0
    _times: "array[float]" = field(default_factory=lambda: array("d"))
    _prompts: "array[int]" = field(default_factory=lambda: array("q"))
    _outputs: "array[int]" = field(default_factory=lambda: array("q"))
    _sessions: "array[int]" = field(default_factory=lambda: array("q"))
    _numbers: dict[Hashable, int] = field(default_factory=dict)
    _blocks: list[tuple[int, ...]] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self._prompts)

    @property
    def rows(self) -> int:
        """Rows read so far, kept or not."""
        return len(self) + sum(self.dropped.values())

    @property
    def timed(self) -> bool:
        """Whether rows state when they arrive.

        Raises:
            InputError: some do and some do not.
        """
        if 0 < self._timed < len(self):
            raise InputError(
                f"{self.name}: expected a time for every request or for none, got "
                f"{self._timed} times for {len(self)} requests"
            )
        return self._timed > 0

    @property
    def first_time(self) -> float:
        """The time of the first row that has one, as it is stated; 0 where none has."""
        return self._origin or 0.0

    @property
    def has_sessions(self) -> bool:
        """Whether any row belongs to a conversation."""
        return len(self._numbers) > 0

    @property
    def has_blocks(self) -> bool:
        """Whether any row states the blocks of its prompt."""
        return len(self._blocks) > 0

    def add(self, row: Row) -> None:
        """Collect a row, or count why it is left out."""
        time, prompt, output, session, blocks = row
        if output == 0 and prompt > 0 and self.keep_failed:
            output, self.kept_failed = 1, self.kept_failed + 1
        if prompt < 1 or output < 1:
            self.dropped[_reason(prompt, output)] += 1
            return
        if time is not None:
            if self._origin is None:
                self._origin = time
            self._timed += 1
            self.fractional = self.fractional or time != int(time)
            time -= self._origin  # whole numbers stay exact, however long ago 1970 is
        self._times.append(time or 0.0)
        self._prompts.append(prompt)
        self._outputs.append(output)
        number = NO_SESSION
        if session is not None:
            number = self._numbers.setdefault(session, len(self._numbers))
        self._sessions.append(number)
        if blocks is not None:
            self._pad_blocks(len(self) - 1)
            self._blocks.append(blocks)

    def _pad_blocks(self, rows: int) -> None:
        self._blocks += [()] * (rows - len(self._blocks))

    def check_not_empty(self) -> None:
        """Raise InputError if no request is left."""
        if len(self) == 0:
            found = f"{self.rows} rows, {counted(self.dropped)}" if self.rows else "no rows"
            raise InputError(f"{self.name}: expected requests, got {found}")

    def workload(self, name: str, unit: TimeUnit, block_tokens: int | None) -> TraceWorkload:
        """Return the requests in the order of their arrival.

        Args:
            name: of the workload.
            unit: of the rows' times.
            block_tokens: tokens of a block, or None where only the blocks themselves tell.

        Raises:
            InputError: prompts have more blocks than tokens explain.
        """
        times = np.array(self._times)
        order = np.argsort(times, kind="stable")
        late = int((np.diff(times) < 0).sum())
        notes = [f"sorted; earlier than the row before: {late} of {len(self)}"] if late else []
        blocks = None
        if self.has_blocks:
            blocks, block_tokens = self._fitting_blocks(block_tokens, notes)
            blocks = tuple(blocks[row] for row in order.tolist())
        arrival_s = (times[order] - times[order[0]]) / PER_SECOND[unit]
        if arrival_s[-1] > LONGEST_TRACE_S:
            raise InputError(
                f"{self.name}: expected arrivals within {LONGEST_TRACE_S:g} s, the last is "
                f"{arrival_s[-1]:g} s after the first; is the time unit right (--time-unit)?"
            )
        return TraceWorkload(
            name=name,
            arrival_s=arrival_s,
            prompt_tokens=np.array(self._prompts, dtype=np.int64)[order],
            output_tokens=np.array(self._outputs, dtype=np.int64)[order],
            prefix_blocks=blocks,
            block_tokens=None if blocks is None else block_tokens,
            session=self._session(order),
            notes=tuple(notes),
        )

    def _fitting_blocks(
        self, stated: int | None, notes: list[str]
    ) -> tuple[tuple[tuple[int, ...], ...], int]:
        """Return the blocks, no more than each prompt can have, and their size."""
        self._pad_blocks(len(self))
        counts = np.fromiter(map(len, self._blocks), np.int64, len(self._blocks))
        prompts = np.array(self._prompts, dtype=np.int64)
        if stated is None:
            fitting = (size for size in BLOCK_TOKENS if (counts <= -(-prompts // size)).all())
            size = next(fitting, None)
            if size is None:
                row = int(np.argmax(counts - prompts / BLOCK_TOKENS[-1]))
                raise InputError(
                    f"{self.name}: expected blocks of at least {BLOCK_TOKENS[-1]} tokens, got "
                    f"{counts[row]} for a prompt of {prompts[row]} tokens"
                )
            notes.append(f"blocks of {size} tokens, the largest size that all prompts agree with")
            return tuple(self._blocks), size
        most = -(-prompts // stated)
        if extra := int((counts > most).sum()):
            notes.append(f"prompts cut to the blocks they have tokens for: {extra} of {len(self)}")
        return tuple(
            row[:count] for row, count in zip(self._blocks, most.tolist(), strict=True)
        ), stated

    def _session(self, order: IntArray) -> IntArray | None:
        """Return dense numbers of sessions; requests without one are each a session of their own.

        Numbers rise in the order of first arrival.
        """
        if not self._numbers:
            return None
        numbers = np.array(self._sessions, dtype=np.int64)[order]
        alone = np.flatnonzero(numbers == NO_SESSION)
        numbers[alone] = len(self._numbers) + np.arange(len(alone))
        _, first, dense = np.unique(numbers, return_index=True, return_inverse=True)
        rank = np.empty(len(first), dtype=np.int64)
        rank[np.argsort(first)] = np.arange(len(first))
        ranked: IntArray = rank[dense]
        return ranked


def _reason(prompt: int, output: int) -> str:
    if prompt < 0 or output < 0:
        return "with a negative number of tokens"
    if prompt == output == 0:
        return "without any tokens"
    return "without prompt tokens" if prompt == 0 else "without output tokens"


def counted(reasons: Counter[str]) -> str:
    """Return counts by reason as text, such as ``17 without output tokens``."""
    return ", ".join(f"{count} {reason}" for reason, count in reasons.items())


def spread_ticks(
    arrival_s: FloatArray, rng: np.random.Generator
) -> tuple[FloatArray, float] | None:
    """Return instants spread uniformly inside the ticks they were rounded to, and a tick's length.

    None where at most half of the stamps repeat another, or all are one. A tick lasts until the
    next stamp, but no longer than the median tick. The order is kept.
    """
    stamps, tick_of_row = np.unique(arrival_s, return_inverse=True)
    repeated = 1 - len(stamps) / len(arrival_s)
    if repeated <= SHARE_OF_REPEATED_STAMPS or len(stamps) < 2:
        return None
    lengths_s = np.diff(stamps)
    tick_s = float(np.median(lengths_s))
    lengths_s = np.minimum(np.append(lengths_s, tick_s), tick_s)
    spread = np.sort(arrival_s + rng.random(len(arrival_s)) * lengths_s[tick_of_row])
    return spread - spread[0], tick_s

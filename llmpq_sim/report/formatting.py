"""Formatting of quantities for readers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from math import floor, log10

from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.units import MS

SEPARATOR = " · "

SMALL_LOSS = 0.001
LARGE_LOSS = 1000.0
TINY_LOSS = 1e-7


def rate_text(per_s: float) -> str:
    """Return a rate with one decimal, or three digits if it is small."""
    return f"{per_s:.1f}" if per_s >= 9.95 else f"{per_s:.3g}"


def loss_text(loss: float) -> str:
    """Return a quality loss with four decimals, or with a few digits if it is small or large."""
    if loss == 0:
        return "0"
    if loss >= LARGE_LOSS:
        return f"{loss:.4g}"
    if loss >= SMALL_LOSS:
        return f"{loss:.4f}"
    return f"{loss:.{1 - floor(log10(loss))}f}" if loss >= TINY_LOSS else f"{loss:.1e}"


def percent_text(fraction: float, decimals: int = 0) -> str:
    """Return a share as a percentage, such as ``93 %``."""
    return f"{100 * fraction:.{decimals}f} %"


def seconds_text(time_s: float) -> str:
    """Return a time with three digits in milliseconds, seconds, minutes or hours."""
    if time_s < 1:
        return f"{_three_digits(time_s / MS)} ms"
    if time_s < 120:
        return f"{_three_digits(time_s)} s"
    minutes, whole_s = divmod(round(time_s), 60)
    if minutes < 120:
        return f"{minutes} min {whole_s} s"
    return f"{minutes // 60} h {minutes % 60} min"


def _three_digits(value: float) -> str:
    return f"{value:.0f}" if value >= 99.95 else f"{value:#.3g}"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun, such as ``1 layer`` or ``2 layers``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def span_text(values: Iterable[int]) -> str:
    """Return the range of some whole numbers: ``8``, ``5 or 6`` or ``1 to 9``."""
    least, most = min(kept := list(values)), max(kept)
    if least == most:
        return str(least)
    return f"{least} {'or' if most == least + 1 else 'to'} {most}"


def joined(names: Sequence[str]) -> str:
    """Return names as a list in words: ``a, b and c``."""
    *others, last = names
    return f"{', '.join(others)} and {last}" if others else last


def format_counts(layer_formats: Iterable[str]) -> dict[str, int]:
    """Return how many layers have each format, the widest first; formats without are left out."""
    counts = Counter(layer_formats)
    return {name: counts[name] for name in FORMATS if counts[name]}


def format_parts(layer_formats: Iterable[str]) -> list[str]:
    """Return how many layers have each format, such as ``3 x int8`` and ``7 x int4``."""
    return [f"{count} x {name}" for name, count in format_counts(layer_formats).items()]


def bar(fraction: float, width: int) -> str:
    """Return a share as a bar of so many characters."""
    filled = round(min(max(fraction, 0.0), 1.0) * width)
    return "█" * filled + "░" * (width - filled)


def folded(parts: Sequence[str], width: int, separator: str = SEPARATOR) -> list[str]:
    """Return parts in lines that break between parts; a part wider than a line has its own."""
    lines: list[str] = []
    for part in parts:
        if lines and len(lines[-1]) + len(separator) + len(part) <= width:
            lines[-1] += separator + part
        else:
            lines.append(part)
    return lines

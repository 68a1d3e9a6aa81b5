"""Which format does each layer have, and where does each device begin?"""

from dataclasses import dataclass

from llmpq_sim.formats import FORMATS
from llmpq_sim.plan import Plan
from llmpq_sim.report.words import format_counts

SYMBOLS = {name: "F" if name == "fp16" else "B" if name == "bf16" else name[-1] for name in FORMATS}
"""One character for each format: F, B, or the digit of its bits."""

BOUNDARY = "|"


@dataclass(frozen=True)
class StripLine:
    """One line of the strip: a symbol for each layer, and above them where stages begin.

    Attributes:
        stages: numbers of the stages, each above its first layer of the line.
        layers: a symbol for each layer, with a boundary between stages.
    """

    stages: str
    layers: str


def strip_lines(plan: Plan, width: int) -> list[StripLine]:
    """Return a plan's layers as lines of so many characters."""
    symbols, labels = "", ""
    for number, stage in enumerate(plan.stages):
        part = "".join(SYMBOLS[name] for name in stage.formats)
        symbols += BOUNDARY * (number > 0) + part
        labels += " " * (number > 0) + str(number).ljust(len(part))[: max(len(part), 1)]
    return [
        StripLine(labels[start : start + width].rstrip(), symbols[start : start + width])
        for start in range(0, len(symbols), width)
    ]


def strip_legend(plan: Plan) -> dict[str, str]:
    """Return the format behind each symbol of a plan's strip, the widest first."""
    return {SYMBOLS[name]: name for name in format_counts(plan.layer_formats)}

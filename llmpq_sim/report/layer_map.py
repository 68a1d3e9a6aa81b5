"""Layer map: the format of each layer, and where each device begins."""

from dataclasses import dataclass

from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.plan import Plan
from llmpq_sim.report.formatting import format_counts

BOUNDARY = "|"


@dataclass(frozen=True)
class LayerMapLine:
    """One line of the map: a symbol for each layer, and above them where stages begin.

    Attributes:
        stages: number of each stage above its first layer, left out where there is no room.
        layers: a symbol for each layer, with a boundary between stages.
    """

    stages: str
    layers: str


def layer_map_lines(plan: Plan, width: int) -> list[LayerMapLine]:
    """Return a plan's layers in lines of at most so many characters, cut between stages if it can.

    A stage that is wider than a line goes on below, without its number.
    """
    lines: list[LayerMapLine] = []
    for number, stage in enumerate(plan.stages):
        symbols = "".join(FORMATS[name].symbol for name in stage.formats)
        label = str(number) if len(str(number)) <= len(symbols) else ""
        if lines and len(lines[-1].layers) + 1 + len(symbols) <= width:
            before = lines.pop()
            labels = before.stages.ljust(len(before.layers) + 1) + label
            lines.append(LayerMapLine(labels, f"{before.layers}{BOUNDARY}{symbols}"))
        else:
            lines.append(LayerMapLine(label, symbols[:width]))
            rest = range(width, len(symbols), width)
            lines += [LayerMapLine("", symbols[start : start + width]) for start in rest]
    return lines


def layer_map_legend(plan: Plan) -> str:
    """Return what the symbols of a plan's map mean, such as ``8 is int8, 4 is int4``."""
    names = format_counts(plan.layer_formats)
    return ", ".join(f"{FORMATS[name].symbol} is {name}" for name in names)

"""Layer map: the format and the kind of each layer, and where each device begins."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import cycle

from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.plan import Plan
from llmpq_sim.report.formatting import format_counts
from llmpq_sim.report.layer_kinds import LETTERS, kind_texts

BOUNDARY = "|"


@dataclass(frozen=True)
class LayerMapLine:
    """One line of the map: a symbol for each layer, and above them where stages begin.

    Attributes:
        stages: number of each stage above its first layer, left out where there is no room.
        layers: a symbol for each layer, with a boundary between stages.
        kinds: a letter for the kind of each layer, where there are several kinds.
    """

    stages: str
    layers: str
    kinds: str = ""


def layer_map_lines(
    plan: Plan, width: int, kind_of_layer: Sequence[int] = ()
) -> list[LayerMapLine]:
    """Return a plan's layers in lines of at most so many characters, cut between stages if it can.

    A stage that is wider than a line goes on below, without its number.

    Args:
        plan: stages of layers.
        width: of a line.
        kind_of_layer: number of the kind of each layer, where there are several kinds.
    """
    lines: list[LayerMapLine] = []
    letters = "".join(LETTERS[number % len(LETTERS)] for number in kind_of_layer)
    for number, (stage, first) in enumerate(zip(plan.stages, plan.first_layers(), strict=True)):
        symbols = "".join(FORMATS[name].symbol for name in stage.formats)
        kinds = letters[first : first + len(symbols)]
        label = str(number) if len(str(number)) <= len(symbols) else ""
        if lines and len(lines[-1].layers) + 1 + len(symbols) <= width:
            before = lines.pop()
            labels = before.stages.ljust(len(before.layers) + 1) + label
            boundary = BOUNDARY if letters else ""
            lines.append(
                LayerMapLine(
                    labels,
                    f"{before.layers}{BOUNDARY}{symbols}",
                    f"{before.kinds}{boundary}{kinds}",
                )
            )
        else:
            lines += [
                LayerMapLine(
                    "" if start else label,
                    symbols[start : start + width],
                    kinds[start : start + width],
                )
                for start in range(0, len(symbols), width)
            ]
    return lines


def layer_map_legend(plan: Plan) -> str:
    """Return what the symbols of a plan's map mean, such as ``8 is int8, 4 is int4``."""
    names = format_counts(plan.layer_formats)
    return ", ".join(f"{FORMATS[name].symbol} is {name}" for name in names)


def layer_kinds_legend(model: ModelSpec) -> str:
    """Return what the letters of a map mean, such as ``a is attention + MLP``."""
    pairs = zip(cycle(LETTERS), kind_texts(model), strict=False)
    return ", ".join(f"{letter} is {text}" for letter, text in pairs)

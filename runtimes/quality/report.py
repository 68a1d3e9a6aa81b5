"""Report of a measurement of quality, while it runs and at the end."""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.table import Table

import llmpq_sim
from llmpq_sim.io.quality import quality_to_dict
from llmpq_sim.quality.measured import ExpertUse, MeasuredLoss, MeasuredQuality
from llmpq_sim.report.console import labelled, new_table, paragraph, plain, print_to, width_of
from llmpq_sim.report.execution import size_text
from llmpq_sim.report.formatting import counted, loss_text, percent_text, seconds_text
from llmpq_sim.report.progress import progress_line
from runtimes.quality.measured_model import MeasuredModel
from runtimes.quality.progress import StreamProgress
from runtimes.quality.streaming import Run

SCHEMA = "llmpq/quality-summary"
VERSION = 1
BLOCKS = "▁▂▃▄▅▆▇█"
STRIP_LAYERS = 64
MOST_SENSITIVE = 3
LARGE = 10.0


@contextmanager
def quality_progress(
    enabled: bool, console: Console | None = None
) -> Iterator[Callable[[StreamProgress], None]]:
    """Give a callback that draws how far a measurement is, and clear it at the end.

    Once a layer was timed it also says, on a line of its own, how long the rest should take.

    Args:
        enabled: whether to draw; the line is written in any case.
        console: where to; stderr unless told.
    """
    screen = console or Console(stderr=True, highlight=False)
    is_forecast_told = False
    with progress_line(enabled, screen) as update:

        def show(progress: StreamProgress) -> None:
            nonlocal is_forecast_told
            left = "" if progress.left_s is None else f"about {seconds_text(progress.left_s)} left"
            is_head = progress.layer == progress.layers
            doing = "LM head" if is_head else f"layer {progress.layer} of {progress.layers}"
            update(f"{doing:<18}", progress.fraction, left)
            if left and not is_forecast_told:
                is_forecast_told = True
                screen.print(plain(f"the first layer is timed: {left}"))

        yield show


def run_text(run: Run) -> str:
    """Return in a sentence how much a run is."""
    windows, tokens = run.windows.shape
    size = size_text(run.shape.stored_bytes)
    return (
        f"{counted(len(run.candidates), 'assignment')} of formats on {counted(windows, 'window')} "
        f"of {tokens} tokens: {run.work.layer_passes} passes of a layer, as much "
        f"work as {run.work.model_passes:.0f} forward passes of the model; {size} on disk meanwhile"
    )


def pass_text(measured_model: MeasuredModel) -> str:
    """Return in a sentence how much an indicator takes."""
    text = measured_model.windows.text
    return (
        f"{counted(text.windows, 'window')} of {text.window_tokens} tokens: "
        f"{measured_model.spec.layers} passes of a layer, one forward pass of the model"
    )


def show_quality(
    console: Console, measured: MeasuredQuality, layers: int, quality_file: str, model_dir: str
) -> None:
    """Write what was measured, the losses per format first.

    Args:
        console: where to.
        measured: the losses.
        layers: of the model.
        quality_file: where they were written.
        model_dir: as the user gave it.
    """
    width = width_of(console)
    nats = measured.reference_perplexity
    at_16_bits = "" if nats is None else f", perplexity {nats:.2f} at 16 bits"
    headline = paragraph(f"{measured.model_name}: {measured.measure}{at_16_bits}", width)
    headline.stylize("bold")
    print_to(console, headline, "", _format_table(measured, layers), "")
    print_to(console, *_strips(measured), "")
    print_to(console, labelled(_facts(measured), width), "")
    print_to(console, plain(f"Wrote {quality_file}. Next:"))
    limit = "--max-kl 0.03" if measured.method == "kl" else "--quality-at-least int8"
    search = (
        f"  llmpq search --model {model_dir} --cluster CLUSTER --quality {quality_file} {limit}"
    )
    print_to(console, plain(search))
    check = f"  llmpq quality {model_dir} --plan plan.json"
    print_to(console, plain(f"{check}   measures the plan that comes of it"))


def _format_table(measured: MeasuredQuality, layers: int) -> Table:
    has_perplexity = measured.reference_nats is not None
    headings = ["format", "quantizer", "all layers", "perplexity", "most sensitive", "least"]
    if not has_perplexity:
        headings.remove("perplexity")
    drawn = new_table(*headings, right=("all layers", "perplexity"))
    for name, quantizer in measured.quantizers.items():
        rows = rows_of(measured, name)
        total, interval = totals(measured, layers)[name]
        diverged = sum(row.diverged for row in rows)
        text = f"{loss_text(total)} ± {loss_text(interval)}" if interval else value_text(total)
        cells = [name, quantizer, f"{diverged} diverged" if diverged else text]
        if has_perplexity:
            cells.append("" if diverged else f"{_perplexity(measured, layers, total):.2f}")
        ordered = sorted(rows, key=lambda row: -_size(row))
        others = [str(row.layer) for row in ordered[1:MOST_SENSITIVE]]
        cells.append(", ".join((_layer_text(ordered[0]), *others)))
        cells.append(_layer_text(ordered[-1]))
        drawn.add_row(*map(plain, cells))
    return drawn


def rows_of(measured: MeasuredQuality, format_name: str) -> list[MeasuredLoss]:
    """Return the rows of a format in the order of layers."""
    rows = [row for row in measured.rows if row.format == format_name]
    return sorted(rows, key=lambda row: row.layer)


def totals(measured: MeasuredQuality, layers: int) -> dict[str, tuple[float, float]]:
    """Return the loss of all layers in each format, infinite if one diverged, and its interval."""
    table = measured.table(layers)
    found = {}
    for name in measured.quantizers:
        loss = table.uniform_loss(name)
        uniform = (name,) * layers
        found[name] = (loss, table.interval(uniform) if math.isfinite(loss) else 0.0)
    return found


def _perplexity(measured: MeasuredQuality, layers: int, loss: float) -> float:
    """Return the perplexity at a loss; only where the 16-bit model's is known."""
    return measured.table(layers).perplexity(loss) or math.nan


def _size(row: MeasuredLoss) -> float:
    return math.inf if row.loss is None else row.loss


def _layer_text(row: MeasuredLoss) -> str:
    return f"{row.layer} ({'diverged' if row.loss is None else value_text(row.loss)})"


def value_text(loss: float) -> str:
    """Return a loss in nats, or an indicator, which may be any size."""
    return loss_text(loss) if loss < LARGE else f"{loss:.4g}"


def _strips(measured: MeasuredQuality) -> Iterator[Any]:
    """Yield a strip of bars for each format, one for each layer, as high as its loss."""
    yield plain("each layer, from the first to the last; x where it diverged", "dim")
    for name in measured.quantizers:
        rows = rows_of(measured, name)
        for start in range(0, len(rows), STRIP_LAYERS):
            label = name if not start else ""
            highest = max((row.loss for row in rows if row.loss is not None), default=0.0)
            bars = bars_text(rows[start : start + STRIP_LAYERS], highest)
            top = f"  {value_text(highest)} at the top" if not start else ""
            yield plain(f"{label:<10}{bars}{top}")


def bars_text(rows: Sequence[MeasuredLoss], highest: float) -> str:
    """Return a character for each row, as high as its loss is beside the highest."""
    steps = len(BLOCKS) - 1
    heights = [0.0 if not highest or row.loss is None else row.loss / highest for row in rows]
    return "".join(
        "x" if row.loss is None else BLOCKS[round(height * steps)]
        for row, height in zip(rows, heights, strict=True)
    )


def _facts(measured: MeasuredQuality) -> list[tuple[str, list[str]]]:
    text, additivity = measured.text, measured.additivity
    rows = [
        ("text", [text.name, f"{counted(text.windows, 'window')} of {text.window_tokens} tokens"]),
        (
            "time",
            [seconds_text(sum(row.seconds for row in measured.rows)), f"seed {measured.seed}"],
        ),
    ]
    if measured.expert_use:
        rows.append(("experts", list(_expert_texts(measured.expert_use))))
    if text.windows == 1:
        rows.append(("", ["one window has no standard error: take more for an interval"]))
    if additivity is not None:
        off = percent_text(additivity.error_fraction, 1)
        mixed = counted(additivity.assignments, "mixed assignment")
        rows.append(("sums", [f"over layers are off by at most {off} for 9 in 10 of {mixed}"]))
    elif measured.method == "kl":
        rows.append(("sums", ["over layers were compared with no mixed assignment"]))
    return rows


def _expert_texts(used: Sequence[ExpertUse]) -> Iterator[str]:
    """Yield how unequally the text used experts, the layer where it did most so."""
    idle = sum(not count for each in used for count in each.choices)
    yield f"{idle} of {sum(len(each.choices) for each in used)} were never chosen by the text"
    shares = {each.layer: max(each.choices) / sum(each.choices) for each in used}
    layer = max(shares, key=shares.__getitem__)
    yield f"layer {layer} chose one of them {percent_text(shares[layer], 1)} of the time"


def quality_content(measured: MeasuredQuality, layers: int, quality_file: str) -> dict[str, Any]:
    """Return what was measured as plain data."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "llmpq_version": llmpq_sim.__version__,
        "quality_file": quality_file,
        "totals": {
            name: {
                "loss": loss if math.isfinite(loss) else None,
                "interval": interval,
                "perplexity": (
                    measured.table(layers).perplexity(loss) if math.isfinite(loss) else None
                ),
            }
            for name, (loss, interval) in totals(measured, layers).items()
        },
        "quality": quality_to_dict(measured),
    }

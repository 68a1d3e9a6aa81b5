"""Screen of a plan's service of a trace."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmpq_sim.api.replay import Replay
from llmpq_sim.core.result import SimulationResult
from llmpq_sim.core.units import gib
from llmpq_sim.report.charts import MEDIAN, TAIL, distribution, over_time, side_by_side
from llmpq_sim.report.console import (
    WIDTH,
    folded_lines,
    labelled,
    new_table,
    paragraph,
    plain,
    put,
    width_of,
)
from llmpq_sim.report.formatting import bar, folded, format_parts, percent_text, seconds_text
from llmpq_sim.report.service_summary import (
    max_rate_sentence,
    objective_parts,
    queue_sentence,
    service_headline,
    service_scenario_parts,
    settings_parts,
    trouble_sentences,
)
from llmpq_sim.report.summary import trust_parts, used_profiles
from llmpq_sim.report.tables import FORMATS_WIDTH, SUMMARY_HEADINGS
from llmpq_sim.simulator.continuous.service import Service

CHART_HEIGHT = 7
GAP = 2
LEAST_WIDTH = 60
BAR_WIDTH = 6


def show_replay(console: Console, replay: Replay, written: Sequence[str] = ()) -> None:
    """Write what a plan does with a trace, the answer first."""
    service, width = replay.service, width_of(console)
    put(console, folded_lines(service_headline(service), width, "bold"))
    put(console, paragraph(queue_sentence(replay), width))
    if replay.max_rate is not None:
        put(console, paragraph(max_rate_sentence(replay.max_rate), width))
    put(console, *(paragraph(text, width) for text in trouble_sentences(service)))
    trust = trust_parts(used_profiles(service.plan, replay.saved.task))
    put(console, folded_lines(trust, width), "")
    _put_facts(console, replay)
    put(console, "", service_stage_table(service, width))
    if service.result.finished:
        put(console, "", service_latency_table(service.result))
        _put_charts(console, service)
    for text in written:
        put(console, "", plain(text))


def _put_facts(console: Console, replay: Replay) -> None:
    service = replay.service
    objectives = objective_parts(service.objectives)
    notes = service.workload.notes
    rows = [
        ("scenario", service_scenario_parts(service)),
        ("batches", settings_parts(service)),
        *([("SLO", objectives)] if objectives else []),
        *[("" if number else "trace", [note]) for number, note in enumerate(notes)],
        ("simulated", [seconds_text(replay.wall_seconds), f"seed {replay.seed}"]),
    ]
    put(console, labelled(rows, width_of(console)))


def service_stage_table(service: Service, width: int) -> Table:
    """Return stages with bars of their memory and KV cache at the peak, and of their busy time."""
    bar_width = min(max(BAR_WIDTH - (WIDTH - width + 2) // 3, 0), BAR_WIDTH)
    headings = ("stage", "device", "layers", "formats", "memory at peak", "KV peak", "busy")
    table = new_table(*headings, right=("stage",))
    for column in table.columns[4:]:
        column.no_wrap = True
    result, plan = service.result, service.plan
    rows = zip(
        plan.stages,
        plan.first_layers(),
        service.memory_bytes,
        service.limit_bytes,
        result.kv_peak_fraction,
        result.stage_busy_fraction,
        strict=True,
    )
    for number, (stage, first, needed, limit, peak, busy) in enumerate(rows):
        last = first + len(stage.formats) - 1
        table.add_row(
            str(number),
            plain(stage.device),
            str(first) if first == last else f"{first}-{last}",
            plain("\n".join(folded(format_parts(stage.formats), FORMATS_WIDTH, ", "))),
            _bar_cell(needed / limit, bar_width, "cyan", f"{gib(needed):>5} / {gib(limit)} GiB"),
            _bar_cell(peak, bar_width, "magenta", f"{percent_text(peak):>6}"),
            _bar_cell(busy, bar_width, "green", f"{percent_text(busy):>6}"),
        )
    return table


def _bar_cell(fraction: float, width: int, style: str, figures: str) -> Text:
    return Text.assemble((bar(fraction, width), style), figures)


def service_latency_table(result: SimulationResult) -> Table:
    """Return what requests wait for their tokens: mean and percentiles."""
    table = new_table("time of a request", *SUMMARY_HEADINGS, right=SUMMARY_HEADINGS)
    for name, summary in (
        ("to its first token (TTFT)", result.ttft_s),
        ("per further token (TPOT)", result.tpot_s),
        ("between two tokens (ITL)", result.itl_s),
        ("to its last token (E2E)", result.latency_s),
    ):
        times_s = (summary.mean, summary.p50, summary.p90, summary.p95, summary.p99)
        table.add_row(name, *(seconds_text(time_s) for time_s in times_s))
    return table


def _put_charts(console: Console, service: Service) -> None:
    width = width_of(console)
    beside = width >= LEAST_WIDTH
    half = (width - GAP) // 2 if beside else width
    arrival_s = service.workload.arrival_s[service.served]
    named = (("to the first token", service.ttft_s), ("to the last token", service.latency_s))
    shares = [distribution(name, value_s, half, CHART_HEIGHT) for name, value_s in named]
    pairs = [("Share of requests", shares)]
    if arrival_s[-1] > 0:
        times = [over_time(name, arrival_s, value_s, half, CHART_HEIGHT) for name, value_s in named]
        pairs.insert(0, (f"By arrival ({MEDIAN} median, {TAIL} 99th percentile)", times))
    for legend, (left, right) in pairs:
        put(console, "", plain(legend, "dim"))
        if beside:
            lines = side_by_side(left.lines(), right.lines(), half + GAP)
        else:
            lines = [*left.lines(), *right.lines()]
        put(console, plain("\n".join(lines)))

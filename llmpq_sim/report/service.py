"""Report of a plan's service of a trace: screen and summary."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

from llmpq_sim.api.replaying import Replay
from llmpq_sim.core.result import SimulationResult
from llmpq_sim.core.units import gib_apart
from llmpq_sim.report.alone import alone_sentences
from llmpq_sim.report.capacity import capacity_parts, crowd_sentences
from llmpq_sim.report.charts import MEDIAN, TAIL, distribution, over_time, side_by_side
from llmpq_sim.report.console import (
    WIDTH,
    folded_lines,
    labelled,
    new_table,
    paragraph,
    plain,
    print_to,
    width_of,
)
from llmpq_sim.report.eviction_advice import eviction_sentences
from llmpq_sim.report.formatting import (
    bar,
    counted,
    folded,
    format_parts,
    joined,
    percent_text,
    rate_text,
    seconds_text,
)
from llmpq_sim.report.layer_kinds import layer_parts
from llmpq_sim.report.memory import memory_table
from llmpq_sim.report.rate_limit import rate_limit_parts, rate_limit_sentences
from llmpq_sim.report.speeds import service_speeds, speeds_row
from llmpq_sim.report.summary import kinds_text, trust_parts, used_profiles
from llmpq_sim.report.tables import FORMATS_WIDTH, latency_table
from llmpq_sim.simulator.continuous.capacity import service_capacity
from llmpq_sim.simulator.continuous.max_rate import MaxRate
from llmpq_sim.simulator.continuous.service import Service
from llmpq_sim.simulator.continuous.settings import ContinuousSettings, ServiceObjectives

CHART_HEIGHT = 7
GAP = 2
LEAST_WIDTH = 60
BAR_WIDTH = 6


def show_replay(console: Console, replay: Replay, written: Sequence[str] = ()) -> None:
    """Write what a plan does with a trace, the answer first."""
    service, width = replay.service, width_of(console)
    headline = [*service_headline(service), *rate_limit_parts(replay.rate)]
    print_to(console, folded_lines(headline, width, "bold"))
    print_to(console, paragraph(queue_sentence(replay), width))
    if replay.max_rate is not None:
        print_to(console, paragraph(max_rate_sentence(replay.max_rate), width))
    above = rate_limit_sentences(replay.rate, service.workload)
    alone = alone_sentences(replay.alone, replay.attainment, "With this plan")
    troubles = [*above, *alone, *trouble_sentences(service), *eviction_sentences(replay)]
    print_to(console, *(paragraph(text, width) for text in troubles))
    trust = trust_parts(used_profiles(service.plan, replay.saved.task))
    print_to(console, folded_lines(trust, width), "")
    _print_facts(console, replay)
    print_to(console, "", service_stage_table(service, width))
    print_to(console, "", memory_table(service.plan, service.memory))
    if service.result.finished:
        print_to(console, "", service_latency_table(service.result))
        _print_charts(console, service)
    for text in written:
        print_to(console, "", plain(text))


def _print_facts(console: Console, replay: Replay) -> None:
    service = replay.service
    objectives = objective_parts(service.objectives)
    notes, kinds = service.workload.notes, layer_parts(service.costs.model)
    rows = [
        ("scenario", service_scenario_parts(service)),
        *([("layers", kinds)] if kinds else []),
        ("batches", settings_parts(service)),
        ("capacity", capacity_parts(service_capacity(service))),
        *speeds_row(service_speeds(service), service.result),
        *([("SLO", objectives)] if objectives else []),
        *[("" if number else "trace", [note]) for number, note in enumerate(notes)],
        ("simulated", [seconds_text(replay.wall_seconds), f"seed {replay.seed}"]),
    ]
    print_to(console, labelled(rows, width_of(console)))


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
        needed_gib, limit_gib = gib_apart(needed, limit)
        table.add_row(
            str(number),
            plain(stage.device),
            str(first) if first == last else f"{first}-{last}",
            plain("\n".join(folded(format_parts(stage.formats), FORMATS_WIDTH, ", "))),
            _bar_cell(needed / limit, bar_width, "cyan", f"{needed_gib:>5} / {limit_gib} GiB"),
            _bar_cell(peak, bar_width, "magenta", f"{percent_text(peak):>6}"),
            _bar_cell(busy, bar_width, "green", f"{percent_text(busy):>6}"),
        )
    return table


def _bar_cell(fraction: float, width: int, style: str, figures: str) -> Text:
    return Text.assemble((bar(fraction, width), style), figures)


def service_latency_table(result: SimulationResult) -> Table:
    """Return what requests wait for their tokens: mean and percentiles."""
    return latency_table(
        (
            ("to its first token (TTFT)", result.ttft_s),
            ("per further token (TPOT)", result.tpot_s),
            ("between two tokens (ITL)", result.itl_s),
            ("to its last token (E2E)", result.latency_s),
        )
    )


def _print_charts(console: Console, service: Service) -> None:
    width = width_of(console)
    beside = width >= LEAST_WIDTH
    half = (width - GAP) // 2 if beside else width
    arrival_s = service.times.arrival_s[service.served]
    named = (("to the first token", service.ttft_s), ("to the last token", service.latency_s))
    shares = [distribution(name, value_s, half, CHART_HEIGHT) for name, value_s in named]
    pairs = [("Share of requests", shares)]
    if arrival_s[-1] > 0:
        times = [over_time(name, arrival_s, value_s, half, CHART_HEIGHT) for name, value_s in named]
        pairs.insert(0, (f"By arrival ({MEDIAN} median, {TAIL} 99th percentile)", times))
    for legend, (left, right) in pairs:
        print_to(console, "", plain(legend, "dim"))
        if beside:
            lines = side_by_side(left.lines(), right.lines(), half + GAP)
        else:
            lines = [*left.lines(), *right.lines()]
        print_to(console, plain("\n".join(lines)))


def service_headline(service: Service) -> list[str]:
    """Return what is served per second, and how much of it is good."""
    result = service.result
    if not result.finished:
        return [f"all {counted(result.requests, 'request')} refused: none fits"]
    parts = [
        f"{rate_text(result.requests_per_s)} requests/s",
        f"{rate_text(result.tokens_per_s)} tokens/s",
    ]
    if result.goodput_per_s is not None and result.slo_attainment is not None:
        met = percent_text(result.slo_attainment, 1)
        parts += [f"goodput {rate_text(result.goodput_per_s)} requests/s", f"{met} meet the SLO"]
    cost = service.usd_per_million_tokens
    return parts if cost is None else [*parts, f"${cost:.2f} per million tokens"]


def queue_sentence(replay: Replay) -> str:
    """Return how the queue develops, and what the plan could hold where it cannot hold the rate."""
    queue, rate_per_s = replay.queue, replay.service.workload.rate_per_s
    if queue.sustained_rate_per_s is not None and rate_per_s is not None:
        held = rate_text(queue.sustained_rate_per_s)
        return (
            f"The queue grows without bound: {rate_text(rate_per_s)} requests/s arrive, and "
            f"{counted(queue.at_end, 'request')} wait for a first token when the last one "
            f"arrives. The plan could hold about {held} requests/s: try --rate {held}."
        )
    return (
        f"Waiting for a first token: at most {counted(queue.most, 'request')} at once, "
        f"{queue.mean:.1f} on average."
    )


def max_rate_sentence(highest: MaxRate) -> str:
    """Return the highest rate at which enough requests meet the objectives."""
    share = percent_text(highest.attainment, 1)
    if highest.rate_per_s is None:
        lowest = min(trial.rate_per_s for trial in highest.trials)
        return f"At no rate down to {rate_text(lowest)} requests/s do {share} meet the SLO."
    rate = f"{rate_text(highest.rate_per_s)} requests/s"
    if not highest.is_limit:
        return f"Up to {rate}, as far as was tried, {share} meet the SLO."
    return (
        f"Up to {rate}, {share} meet the SLO: the trace's arrivals compressed, "
        f"{len(highest.trials)} rates tried."
    )


def service_scenario_parts(service: Service, arrivals: str | None = None) -> list[str]:
    """Return what is served where: model, devices, and the trace.

    Args:
        service: with its workload.
        arrivals: how requests come, where one workload does not say it.
    """
    model, cluster, workload = service.costs.model, service.costs.cluster, service.workload
    rate_per_s = workload.rate_per_s
    rate = "all at once" if rate_per_s is None else f"{rate_text(rate_per_s)} requests/s"
    if workload.concurrency is not None:
        rate = f"{workload.concurrency} in flight"
    prompts = workload.total_prompt_tokens / workload.requests
    outputs = workload.total_output_tokens / workload.requests
    return [
        f"{model.name} ({counted(model.layers, 'layer')})",
        f"{cluster.name} ({kinds_text(cluster)})",
        f"{counted(workload.requests, 'request')} of {workload.name}, {arrivals or rate}",
        f"mean {prompts:.0f} prompt + {outputs:.0f} output tokens",
    ]


def settings_parts(service: Service) -> list[str]:
    """Return how requests are batched."""
    settings = service.settings
    parts = [
        f"at most {counted(settings.token_budget, 'token')} a batch",
        f"{counted(settings.sequence_limit, 'request')} admitted",
        _prompt_text(settings),
    ]
    if settings.admission == "no-evict":
        parts.append("admitted where all of the output fits")
    if settings.batches_in_flight is not None:
        batches = "batch" if settings.batches_in_flight == 1 else "batches"
        parts.append(f"{settings.batches_in_flight} {batches} under way")
    if settings.prefix_caching:
        reused = counted(service.result.reused_prompt_tokens, "prompt token")
        parts.append(f"prefixes cached: {reused} reused")
    return parts


def _prompt_text(settings: ContinuousSettings) -> str:
    if not settings.chunked_prefill:
        return "prompts whole, before decodes"
    if settings.chunk_tokens is None:
        return "prompts cut to fit"
    return f"prompts cut to {counted(settings.chunk_tokens, 'token')}"


def objective_parts(objectives: ServiceObjectives | None) -> list[str]:
    """Return what a request must meet to be good; nothing where no limit is given."""
    if objectives is None:
        return []
    limits = (
        ("TTFT", objectives.ttft_s),
        ("TPOT", objectives.tpot_s),
        ("end to end", objectives.latency_s),
    )
    return [f"{name} at most {seconds_text(limit)}" for name, limit in limits if limit is not None]


def _lost_text(settings: ContinuousSettings) -> str:
    return "what its request lost" if settings.prefix_caching else "its request's cache"


def trouble_sentences(service: Service) -> list[str]:
    """Return what went wrong for requests: refused ones, and those computed anew."""
    result, sentences = service.result, crowd_sentences(service, service_capacity(service))
    if result.refused:
        longest = service_capacity(service).longest_context_tokens
        sentences.append(
            f"Refused: {counted(result.refused, 'request')} of {result.requests} with more than "
            f"{longest} tokens, all that the tightest stage can hold for one."
        )
    if result.preemptions:
        tight = [
            stage.device
            for stage, peak in zip(service.plan.stages, result.kv_peak_fraction, strict=True)
            if peak == max(result.kv_peak_fraction)
        ]
        sentences.append(
            f"KV cache ran out on {joined(tight)}: {counted(result.preemptions, 'preemption')}, "
            f"each computing {_lost_text(service.settings)} anew."
        )
    return sentences

"""Screen and JSON of a search for a trace."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from math import inf

from rich.console import Console
from rich.table import Table

from llmpq_sim.core.plan import Plan
from llmpq_sim.core.records import to_dict
from llmpq_sim.report.alone import alone_content, alone_sentences
from llmpq_sim.report.capacity import capacity_content, capacity_parts
from llmpq_sim.report.console import (
    folded_lines,
    labelled,
    new_table,
    paragraph,
    plain,
    print_to,
    width_of,
)
from llmpq_sim.report.formatting import (
    counted,
    format_parts,
    joined,
    loss_text,
    percent_text,
    rate_text,
    seconds_text,
)
from llmpq_sim.report.json_reports import (
    SEARCH_SCHEMA,
    VERSION,
    Content,
    finite,
    service_apart,
    service_content,
    trace_content,
)
from llmpq_sim.report.memory import memory_table
from llmpq_sim.report.quality import quality_content, quality_parts, risk_sentences
from llmpq_sim.report.rate_limit import (
    rate_limit_content,
    rate_limit_parts,
    rate_limit_sentences,
)
from llmpq_sim.report.search import show_logbook
from llmpq_sim.report.service import (
    objective_parts,
    service_headline,
    service_latency_table,
    service_scenario_parts,
    service_stage_table,
    settings_parts,
    trouble_sentences,
)
from llmpq_sim.report.speeds import service_speeds, speeds_row
from llmpq_sim.report.stages import unused_devices
from llmpq_sim.report.summary import (
    error_fraction,
    stopped_parts,
    trust_parts,
    used_profiles,
)
from llmpq_sim.search.online.evolution import ServiceIndividual
from llmpq_sim.search.online.planner import OnlineOutcome, ServedBaseline
from llmpq_sim.search.online.task import Objective, OnlineTask
from llmpq_sim.simulator.continuous.alone import AloneLimit, alone_limits, best_alone
from llmpq_sim.simulator.continuous.capacity import service_capacity
from llmpq_sim.simulator.continuous.saturation import queue_of
from llmpq_sim.simulator.continuous.service import usd_per_million_tokens

SOUGHT = {
    "goodput": "goodput/s",
    "throughput": "tokens/s",
    "mean-latency": "E2E mean",
    "p99-latency": "E2E p99",
    "cost": "$/M tokens",
}
"""What stands above the objective in tables."""


def online_content(outcome: OnlineOutcome, plan: Content, plan_file: str | None) -> Content:
    """Return what a search for a trace found as plain data without NaN or infinity.

    Args:
        outcome: what was found.
        plan: the content of the plan file.
        plan_file: its name, or None if it was not written.
    """
    task, score = outcome.task, outcome.batch.best
    profiles = used_profiles(score.plan, task.batch)
    return {
        "schema": SEARCH_SCHEMA,
        "version": VERSION,
        "plan": plan,
        "plan_file": plan_file,
        "objective": {
            "name": task.objective,
            "value": _objective(outcome, outcome.best),
            "attainment": task.attainment if _is_attained_cost(task) else None,
        },
        "objectives": task.objectives and asdict(task.objectives),
        "predicted": {
            **service_content(outcome.service),
            "error_fraction": error_fraction(profiles),
        },
        "bound": _bound(outcome),
        "capacity": capacity_content(service_capacity(outcome.service)),
        "settings": asdict(outcome.best.serving.settings),
        **service_apart(outcome.service),
        "quality": quality_content(score, task.batch),
        "baselines": [_baseline(outcome, each) for each in outcome.baselines],
        "trace": trace_content(task.workload),
        "representative_batch": _batch(outcome),
        "alone": alone_content(_alone(outcome)),
        "notes": list(task.workload.notes),
        "search": {
            "seconds": outcome.seconds,
            "evaluations": outcome.evaluations + outcome.batch.evaluations,
            "generations": outcome.generations,
            "seed": outcome.batch.settings.seed,
            "ended": outcome.ended,
        },
        **_pins(outcome),
    }


def show_online(
    console: Console,
    outcome: OnlineOutcome,
    plan_file: str,
    profile_lines: Sequence[str] = (),
    *,
    verbose: bool = False,
) -> None:
    """Write what a search for a trace found, the answer first.

    Args:
        console: where to.
        outcome: what was found.
        plan_file: name of the file the plan was written to.
        profile_lines: what else is to be said of latency profiles and measured losses.
        verbose: whether to show the generations of the genetic search.
    """
    service, width = outcome.service, width_of(console)
    print_to(console, folded_lines(_headline(outcome), width, "bold"))
    risks = risk_sentences(outcome.batch.best, outcome.task.batch, shlex.quote(plan_file))
    above = rate_limit_sentences(outcome.task.rate, outcome.task.workload)
    troubles = [*above, *_missed(outcome), *_overload(outcome), *trouble_sentences(service)]
    sentences = [*troubles, *risks]
    if sentences:
        print_to(console, *(paragraph(text, width) for text in sentences))
    trust = trust_parts(used_profiles(service.plan, outcome.task.batch))
    print_to(console, folded_lines(trust, width), "")
    print_to(console, labelled(_facts(outcome, profile_lines), width))
    print_to(console, "", service_stage_table(service, width))
    print_to(console, "", memory_table(service.plan, service.memory))
    unused = unused_devices(outcome.batch.best, outcome.task.batch)
    if unused:
        print_to(console, "", paragraph(f"Not used: {joined(unused)}.", width))
    print_to(console, "", service_latency_table(service.result))
    print_to(console, "", _comparison_table(outcome))
    if verbose:
        show_logbook(console, outcome.logbook, partial(_logged_text, outcome.task.objective))
    _print_next(console, plan_file)


def _objective(outcome: OnlineOutcome, served: ServiceIndividual) -> float | None:
    """Return what was sought of a service, goodput as it is understood: more is better."""
    task = outcome.task
    if task.objective == "cost":
        plan = served.serving.plan
        return finite(usd_per_million_tokens(plan, task.costs.cluster, served.result) or inf)
    return finite(_sought(task.objective, served.value))


def _sought(objective: Objective, value: float) -> float:
    return (-1.0 if objective in ("goodput", "throughput") else 1.0) * value + 0.0


def _logged_text(objective: Objective, value: float) -> str:
    """Return what the logbook says of a value that is to be small, as `OnlineTask.value` is."""
    if objective != "cost":
        return _sought_text(objective, _sought(objective, value))
    return f"{percent_text(value, 1)} too few" if value >= 0 else rate_text(-1e6 / value)


def _sought_text(objective: Objective, sought: float | None) -> str:
    written = seconds_text if objective in ("mean-latency", "p99-latency") else rate_text
    return "none" if sought is None else written(sought)


def _bound(outcome: OnlineOutcome) -> Content:
    """Return the proven limit, and how far the goodput is from what arrives."""
    offered_per_s = outcome.offered_per_s
    is_goodput = outcome.task.objective == "goodput"
    return {
        "measure": "goodput_per_s" if is_goodput and offered_per_s is not None else None,
        **rate_limit_content(outcome.task.rate, outcome.task.workload),
        "offered_per_s": offered_per_s,
        "gap_fraction": outcome.gap_fraction,
    }


def _batch(outcome: OnlineOutcome) -> Content:
    """Return what the plan would do with the batch that its certificate is about."""
    batch = outcome.batch
    workload = batch.task.costs.scenario.workload
    return {
        "requests": workload.requests,
        "prompt_tokens": workload.prompt_tokens,
        "output_tokens": workload.longest_output_tokens,
        "makespan_s": finite(batch.best.makespan_s),
        "bound_s": finite(batch.certificate.bound_s),
        "gap_fraction": finite(batch.gap_fraction),
    }


def _baseline(outcome: OnlineOutcome, baseline: ServedBaseline) -> Content:
    served = baseline.served
    result = served and served.result
    return {
        "name": baseline.name,
        "feasible": served is not None,
        "objective": served and _objective(outcome, served),
        "tokens_per_s": result and finite(result.tokens_per_s),
        "goodput_per_s": result and result.goodput_per_s,
        "slo_attainment": result and result.slo_attainment,
        "refused": result and result.refused,
        "ttft_p99_s": result and finite(result.ttft_s.p99),
        "latency_mean_s": result and finite(result.latency_s.mean),
        "latency_p99_s": result and finite(result.latency_s.p99),
        "quality_loss": served and outcome.task.loss(served.serving.plan),
        "settings": served and asdict(served.serving.settings),
        "why_not": baseline.infeasible_reason,
    }


def _pins(outcome: OnlineOutcome) -> Content:
    """Return what was decided, and the best service without; nothing where nothing was."""
    if outcome.pins is None:
        return {}
    free = ServedBaseline("without pins", outcome.unpinned, None)
    return {"pins": to_dict(outcome.pins), "without_pins": _baseline(outcome, free)}


def _headline(outcome: OnlineOutcome) -> list[str]:
    parts, gap = service_headline(outcome.service), outcome.gap_fraction
    if gap is not None and outcome.offered_per_s is not None:
        offered = rate_text(outcome.offered_per_s)
        parts.append(f"{offered} requests/s arrive (gap {percent_text(gap, 1)})")
    parts += rate_limit_parts(outcome.task.rate)
    return [*parts, *quality_parts(outcome.batch.best, outcome.task.batch)]


def _missed(outcome: OnlineOutcome) -> list[str]:
    """Return what to say where too few requests meet their objectives, even alone or together."""
    result, task = outcome.best.result, outcome.task
    alone = alone_sentences(_alone(outcome), task.attainment, "With the plans found")
    if alone or result.slo_attainment is None:
        return alone
    lowered = "--rate" if task.workload.concurrency is None else "--concurrency"
    if task.objective == "cost" and not task.attains(result):
        return [
            f"No plan found meets the SLO for {percent_text(task.attainment)} of requests; this "
            f"one does for {percent_text(result.slo_attainment, 1)}: allow more, lower {lowered}, "
            "or add devices."
        ]
    if result.good:
        return []
    return [
        "No request meets the SLO with any plan found. With this one half of the requests have a "
        f"TTFT of at most {seconds_text(result.ttft_s.p50)}, a TPOT of at most "
        f"{seconds_text(result.tpot_s.p50)} and end after {seconds_text(result.latency_s.p50)}: "
        f"allow more, lower {lowered}, or add devices."
    ]


def _overload(outcome: OnlineOutcome) -> list[str]:
    """Return what to say where even the best plan serves less than arrives."""
    held_per_s, rate_per_s = queue_of(outcome.service).sustained_rate_per_s, outcome.offered_per_s
    if held_per_s is None or rate_per_s is None:
        return []
    return [
        f"The queue grows without bound: {rate_text(rate_per_s)} requests/s arrive, this plan "
        f"could hold about {rate_text(held_per_s)}."
    ]


def _facts(outcome: OnlineOutcome, profile_lines: Sequence[str]) -> list[tuple[str, list[str]]]:
    service, task = outcome.service, outcome.task
    objectives, batch = objective_parts(task.objectives), _batch(outcome)
    return [
        ("scenario", service_scenario_parts(service)),
        ("batches", settings_parts(service)),
        ("capacity", capacity_parts(service_capacity(service))),
        *speeds_row(service_speeds(service), service.result),
        *([("SLO", objectives)] if objectives else []),
        *[("" if number else "trace", [note]) for number, note in enumerate(task.workload.notes)],
        *[("" if number else "notes", [line]) for number, line in enumerate(profile_lines)],
        (
            "search",
            [
                f"for {task.objective}",
                seconds_text(outcome.seconds),
                f"{counted(outcome.evaluations, 'service')} tried",
                counted(outcome.generations, "generation"),
                f"seed {outcome.batch.settings.seed}",
                *stopped_parts(outcome.ended, outcome.cut_short),
            ],
        ),
        (
            "",
            [
                f"begun with plans for {counted(batch['requests'], 'request')} of "
                f"{batch['prompt_tokens']} + {batch['output_tokens']} tokens at once",
                "the certificate is about these",
            ],
        ),
    ]


def _comparison_table(outcome: OnlineOutcome) -> Table:
    """Return the plan found beside others, each with its best settings, on the same requests."""
    met = ["meet SLO"] if _is_attained_cost(outcome.task) else []
    headings = (SOUGHT[outcome.task.objective], *met, "TTFT p99", "TPOT p99", "loss")
    table = new_table("plan", *headings, "batches", "formats", right=headings)
    table.columns[0].no_wrap = True
    rows = [ServedBaseline("this plan", outcome.best, None)]
    if outcome.unpinned is not None:
        rows.append(ServedBaseline("without pins", outcome.unpinned, None))
    for row in (*rows, *outcome.baselines):
        style = "bold" if row.served is outcome.best else ""
        figures, said = [""] * (len(headings) + 1), row.infeasible_reason or ""
        if row.served is not None:
            figures, said = _figures(outcome, row.served), _formats(row.served.serving.plan)
        table.add_row(plain(row.name, style), *figures, plain(said))
    return table


def _figures(outcome: OnlineOutcome, served: ServiceIndividual) -> list[str]:
    result = served.result
    return [
        _sought_text(outcome.task.objective, _objective(outcome, served)),
        *_met(outcome.task, served),
        seconds_text(result.ttft_s.p99),
        seconds_text(result.tpot_s.p99),
        loss_text(outcome.task.loss(served.serving.plan)),
        f"{served.serving.settings.token_budget} x {served.serving.settings.sequence_limit}",
    ]


def _met(task: OnlineTask, served: ServiceIndividual) -> list[str]:
    """Return the share of good requests, where the cheapest service is sought that attains one."""
    share = served.result.slo_attainment
    return [percent_text(share, 1)] if share is not None and _is_attained_cost(task) else []


def _is_attained_cost(task: OnlineTask) -> bool:
    return task.objective == "cost" and task.objectives is not None


def _alone(outcome: OnlineOutcome) -> tuple[AloneLimit, ...]:
    """Return the objectives beside requests each alone, where too few meet them together."""
    task = outcome.task
    if outcome.best.result.good is None or task.attains(outcome.best.result):
        return ()
    served = [outcome.best, *(each.served for each in outcome.baselines if each.served)]
    services = dict.fromkeys(each.serving for each in served)
    return best_alone(
        [
            alone_limits(each.plan, task.costs, task.workload, each.settings, task.objectives)
            for each in services
        ]
    )


def _formats(plan: Plan) -> str:
    return ", ".join(format_parts(plan.layer_formats))


def _print_next(console: Console, plan_file: str) -> None:
    name = shlex.quote(plan_file)
    grid = Table.grid(padding=(0, 3))
    grid.add_row(
        plain(f"  llmpq simulate {name} --trace ..."), plain("serve other requests with it", "dim")
    )
    grid.add_row(plain(f"  llmpq verify {name}"), plain("check the bound for the batch", "dim"))
    print_to(console, "", plain(f"Wrote {plan_file}. Next:"), grid)

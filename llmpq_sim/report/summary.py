"""Summary of a search, a simulation, a proof or a fit, in a few words."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from llmpq_sim.core.cluster import Cluster
from llmpq_sim.core.plan import MicroBatching, Plan, equal_parts
from llmpq_sim.core.scenario import BatchWorkload, Scenario
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.report.formatting import (
    counted,
    joined,
    percent_text,
    rate_text,
    seconds_text,
    span_text,
)
from llmpq_sim.report.quality import quality_parts
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.scoring import PlanScore

if TYPE_CHECKING:
    from llmpq_sim.api.verification import Verification
    from llmpq_sim.latency.fitting.fit import FitReport
    from llmpq_sim.search.planner import SearchOutcome

STOPPED = {
    "budget": "stopped at its time budget: more time may find more",
    "interrupted": "interrupted: more time may find more",
}
"""Why a search ended that did not end by itself."""


def search_headline(outcome: SearchOutcome) -> list[str]:
    """Return a search's answer: speed, the proven bound and quality loss."""
    tokens = outcome.task.costs.scenario.workload.total_output_tokens
    found, bound = rate_text(tokens / outcome.best.makespan_s), outcome.bound_tokens_per_s
    gap = percent_text(outcome.gap_fraction, 1)
    return [
        f"{found} tokens/s",
        f"at most {rate_text(bound)} are possible (gap {gap})",
        *quality_parts(outcome.best, outcome.task),
    ]


def simulation_headline(score: PlanScore, task: PlanningTask) -> list[str]:
    """Return a simulation's answer: speed, time and quality loss; or why there is none."""
    if score.result is None:
        return [score.infeasible_reason() or "not simulated"]
    return [
        f"{rate_text(score.result.tokens_per_s)} tokens/s",
        f"{score.result.output_tokens} tokens in {seconds_text(score.makespan_s)}",
        *quality_parts(score, task),
    ]


def plan_profiles(score: PlanScore, task: PlanningTask) -> dict[str, DeviceProfile]:
    """Return the latency profiles of the kinds of device that a scored plan uses."""
    return used_profiles(score.plan, task)


def used_profiles(plan: Plan, task: PlanningTask) -> dict[str, DeviceProfile]:
    """Return the latency profiles of the kinds of device that a plan uses."""
    cluster = task.costs.scenario.cluster
    places = [cluster.index(stage.device, "plan") for stage in plan.stages]
    kinds = {cluster.devices[place].device.name for place in places}
    return {kind: profile for kind, profile in task.costs.profiles.items() if kind in kinds}


def error_fraction(profiles: Mapping[str, DeviceProfile]) -> float:
    """Return the largest error that any of some profiles states for a layer's time."""
    return max(profile.error_fraction for profile in profiles.values())


def trust_parts(profiles: Mapping[str, DeviceProfile]) -> list[str]:
    """Return how far times can be trusted, and why: alike profiles together."""
    kinds: dict[tuple[str, float], list[str]] = {}
    for kind, profile in profiles.items():
        kinds.setdefault((_basis(profile), profile.error_fraction), []).append(kind)
    parts = [f"± {percent_text(error)}: {joined(kinds[how, error])} {how}" for how, error in kinds]
    return [f"times {parts[0]}", *parts[1:]]


def _basis(profile: DeviceProfile) -> str:
    if profile.status == "measured":
        return "measured"
    if profile.status == "calibrated":
        return f"calibrated on {counted(profile.calibration_rows, 'measurement')}"
    return "by data sheet only"


def error_sentence(tokens_per_s: float, error: float) -> str:
    """Return what an error of all times means for throughput."""
    slowest = _rough(tokens_per_s / (1 + error))
    if error >= 1:
        return f"so {slowest} tokens/s or more"
    return f"so {slowest} to {_rough(tokens_per_s / (1 - error))} tokens/s"


def _rough(per_s: float) -> str:
    return f"{per_s:.0f}" if per_s >= 9.5 else f"{per_s:.2g}"


def scenario_parts(scenario: Scenario) -> list[str]:
    """Return what is served where: model, devices and workload."""
    workload, model = scenario.workload, scenario.model
    output = span_text(workload.output_tokens)
    return [
        f"{model.name} ({counted(model.layers, 'layer')})",
        f"{scenario.cluster.name} ({kinds_text(scenario.cluster)})",
        f"{counted(workload.requests, 'request')} of {workload.prompt_tokens} prompt "
        f"+ {output} output tokens",
    ]


def kinds_text(cluster: Cluster) -> str:
    """Return how many devices of each kind a cluster has, such as ``3 x t4, 1 x v100-32g``."""
    kinds = Counter(member.device.name for member in cluster.devices)
    return ", ".join(f"{count} x {kind}" for kind, count in kinds.items())


def micro_batching_parts(batching: MicroBatching, workload: BatchWorkload) -> list[str]:
    """Return how a batch is cut, in words, with the sizes that really occur."""
    waves = batching.waves(workload.requests)
    prefill = [rows for groups in waves for rows in equal_parts(sum(groups), batching.prefill)]
    decode = [rows for groups in waves for rows in groups]
    in_flight = "all" if len(waves) == 1 else f"{batching.groups_in_flight} of"
    prompt_tokens = workload.prompt_tokens
    chunks = batching.chunks(prompt_tokens)
    cut = f"{span_text(prefill)} x {prompt_tokens} in {len(chunks)} chunks of {span_text(chunks)}"
    parts = [
        f"prefill {cut if len(chunks) > 1 else _at_a_time(prefill, 'prompt')}",
        f"decode {_at_a_time(decode, 'request')}",
    ]
    if len(decode) > 1:
        parts.append(f"{in_flight} {len(decode)} groups in flight")
    if len(waves) > 1:
        parts.append(f"{len(waves)} waves")
    return parts


def _at_a_time(sizes: list[int], noun: str) -> str:
    if len(sizes) == 1 and sizes[0] > 1:
        return f"all {sizes[0]} {noun}s at once"
    return f"{span_text(sizes)} {noun}{'' if max(sizes) == 1 else 's'} at a time"


def effort_parts(outcome: SearchOutcome) -> list[str]:
    """Return what a search did, and why it stopped if that was early."""
    parts = [
        seconds_text(outcome.seconds),
        f"{counted(outcome.evaluations, 'plan')} tried",
        counted(outcome.generations, "generation"),
        f"seed {outcome.settings.seed}",
    ]
    return parts + stopped_parts(outcome.ended, outcome.cut_short)


def stopped_parts(ended: str, cut_short: Sequence[str]) -> list[str]:
    """Return why a search ended that did not end by itself, and what it left out."""
    if ended not in STOPPED:
        return []
    cut = f"cut short: {joined(cut_short)}" if cut_short else None
    return [STOPPED[ended], *([cut] if cut else [])]


def verification_parts(verification: Verification) -> list[str]:
    """Return what a plan's certificate proves: its bound, and how near to it the plan is."""
    return [
        f"proven: no plan takes less than {seconds_text(verification.bound_s)}",
        f"this one takes {seconds_text(verification.score.makespan_s)}",
        f"gap {percent_text(verification.gap_fraction, 1)}",
        *(
            [f"no plan serves more than {rate_text(limit)} requests/s of its trace"]
            if (limit := verification.requests_per_s) is not None
            else []
        ),
    ]


def checked_parts(verification: Verification) -> list[str]:
    """Return what was recomputed for it, and what the proof is about."""
    parts = [f"{counted(verification.entries, 'micro-batching')} checked by arithmetic"]
    if verification.refined:
        parts.append(f"{verification.refined} of them cell by cell")
    if not verification.covers_chunks:
        parts.append("only plans that prefill whole prompts are covered")
    return [*parts, "the proof is about predicted times"]


def fit_parts(report: FitReport) -> list[str]:
    """Return what a fit made: a profile, and how far a layer's time can be trusted."""
    profile = report.profile
    return [
        f"{profile.name}: {_basis(profile)}",
        f"a layer's time ± {percent_text(profile.error_fraction)}",
        joined(profile.formats),
    ]


def rows_parts(report: FitReport) -> list[str]:
    """Return how many rows a fit used, and how many it dropped for which reason."""
    dropped = [f"{rows} dropped: {reason}" for reason, rows in report.rows_dropped.items() if rows]
    return [f"{counted(report.rows_used, 'row')} used", *dropped]

"""Judged cases as plain data."""

from dataclasses import asdict
from pathlib import Path

from llmpq_sim.core.plan import Plan
from llmpq_sim.paper.ablations import Ablated, ablate
from llmpq_sim.paper.case_cache import Content, case_sha256, kept_results
from llmpq_sim.paper.cases import Case
from llmpq_sim.paper.evolution import Mix, evolutions, evolutions_on_trace
from llmpq_sim.paper.methods import Judged, judge_methods
from llmpq_sim.paper.theta import plans_of_targets, sweep_theta

CASES, ABLATIONS, THETAS = "cases", "ablations", "thetas"
EVOLUTIONS, ON_TRACES = "evolutions", "on-traces"
"""What is kept of a case: what each method does, what each ablation, what thetas, and what the
genetic search brings, for the batch and on a trace."""

AnyCase = Case | Mix


def results_of(kind: str, case: AnyCase, folder: Path | None) -> list[Content]:
    """Return what was found in a case, from the folder where it is known.

    Args:
        kind: CASES, ABLATIONS, THETAS, EVOLUTIONS or ON_TRACES.
        case: what is evaluated; a mix has the last two alone.
        folder: holds a file for each case that was evaluated, or None to keep none. A file of
            other inputs or other code is made again; the times of solvers are those it has.

    Raises:
        InputError: bundled data or a file cannot be read, or the file cannot be written.
    """
    path = None if folder is None else folder / f"{case.label}.json"
    return kept_results(path, f"llmpq/paper-{kind}", case_sha256(case), lambda: _found(kind, case))


def _found(kind: str, case: AnyCase) -> list[Content]:
    if isinstance(case, Mix):
        ablated = evolutions_on_trace(case) if kind == ON_TRACES else evolutions(case)
    elif kind == CASES:
        return [result_content(case, judged) for judged in judge_methods(case)]
    elif kind == EVOLUTIONS:
        ablated = evolutions(case)
    else:
        thetas = kind == THETAS
        ablated = [*sweep_theta(case), *plans_of_targets(case)] if thetas else ablate(case)
    return [ablated_content(case, one) for one in ablated]


def result_content(case: Case, judged: Judged) -> Content:
    """Return one method's result in SI units; ``feasible`` says whether its plan fits."""
    return {
        **asdict(case),
        "method": judged.method,
        "feasible": judged.tokens_per_s is not None,
        "tokens_per_s": judged.tokens_per_s,
        "quality_loss": judged.loss,
        "solver_s": judged.solver_s,
        "gap_fraction": judged.gap_fraction,
        "measured_tokens_per_s": case.measured_tokens_per_s(judged.method),
        "memory_bytes": list(judged.memory_bytes),
        "why_not": judged.infeasible_reason,
        "plan": _plan_or_none(judged.plan),
    }


def ablated_content(case: AnyCase, ablated: Ablated) -> Content:
    """Return one ablation's result in SI units; no tokens/s where its plan does not fit."""
    return {
        **asdict(case),
        "ablation": ablated.name,
        "theta_ms": ablated.theta_ms,
        "tokens_per_s": ablated.tokens_per_s,
        "quality_loss": ablated.loss,
        "goodput_per_s": ablated.goodput_per_s,
        "plan": _plan_or_none(ablated.plan),
    }


def plan_content(plan: Plan) -> Content:
    """Return a plan in short: devices in order, layers by format, and micro-batches."""
    return {
        "stages": [
            {
                "device": stage.device,
                "layers": {
                    name: stage.formats.count(name) for name in dict.fromkeys(stage.formats)
                },
            }
            for stage in plan.stages
        ],
        "prefill_micro_batch": plan.micro_batching.prefill,
        "decode_micro_batch": plan.micro_batching.decode,
        "groups_in_flight": plan.micro_batching.groups_in_flight,
    }


def _plan_or_none(plan: Plan | None) -> Content | None:
    return None if plan is None else plan_content(plan)

"""How is what was judged in a case written as plain data, and kept for a run taken up again?"""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import llmpq_sim
from llmpq_sim.fields import Fields, check_header
from llmpq_sim.files import read_json, sha256_of, write_json
from llmpq_sim.paper.cases import Case, task_sha256
from llmpq_sim.paper.measurements import CLUSTERS
from llmpq_sim.paper.methods import GENERATIONS, METHODS, SEED, Judged, judge_methods
from llmpq_sim.plan import Plan

SCHEMA = "llmpq/paper-case"
VERSION = 1

Content = dict[str, Any]


def results_of(case: Case, folder: Path | None) -> list[Content]:
    """Return what every method does in a case, from the folder where it is known.

    Args:
        case: what is evaluated.
        folder: holds a file for each case that was evaluated, or None to keep none. A file of
            other inputs, or of another version of llmpq, is made again.

    Raises:
        InputError: bundled data or a file cannot be read, or the file cannot be written.
    """
    path = None if folder is None else folder / f"{case.label}.json"
    wanted = case_sha256(case)
    if path is not None and path.exists():
        with Fields(read_json(path), path.name) as fields:
            check_header(fields, SCHEMA, VERSION)
            known, results = fields.text("sha256"), fields.items("results")
        if known == wanted:
            return results
    results = [result_content(case, judged) for judged in judge_methods(case)]
    if path is not None:
        content = {"schema": SCHEMA, "version": VERSION, "sha256": wanted, "results": results}
        write_json(path, content)
    return results


def case_sha256(case: Case) -> str:
    """Return a hash of all that the results of a case follow from, solver times apart."""
    return sha256_of(
        {
            "llmpq_version": llmpq_sim.__version__,
            "case": asdict(case),
            "theta": CLUSTERS[case.cluster].theta,
            "tasks": [task_sha256(case.task()), task_sha256(case.real_task())],
            "methods": list(METHODS),
            "search": [SEED, GENERATIONS],
        }
    )


def result_content(case: Case, judged: Judged) -> Content:
    """Return one method's result in SI units; ``feasible`` says whether its plan fits."""
    return {
        "cluster": case.cluster,
        "workload": case.workload,
        "gamma": case.gamma,
        "kernels": case.kernels,
        "method": judged.method,
        "feasible": judged.tokens_per_s is not None,
        "tokens_per_s": judged.tokens_per_s,
        "quality_loss": judged.loss,
        "solver_s": judged.solver_s,
        "gap_fraction": judged.gap_fraction,
        "measured_tokens_per_s": case.measured_tokens_per_s(judged.method),
        "memory_bytes": list(judged.memory_bytes),
        "why_not": judged.why_not,
        "plan": None if judged.plan is None else plan_content(judged.plan),
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

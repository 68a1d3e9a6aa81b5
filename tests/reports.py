"""Answers for report tests: a small model on a bundled cluster, scored without a search."""

from dataclasses import replace
from io import StringIO

from rich.console import Console

from llmpq_sim.core.plan import MicroBatching, Plan, Stage
from llmpq_sim.core.scenario import BatchWorkload, Scenario
from llmpq_sim.io.clusters import load_cluster
from llmpq_sim.io.models import load_model
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.latency.fitting.fit import FitError, FitReport
from llmpq_sim.latency.spec import spec_profile
from llmpq_sim.quality.table import nominal_quality
from llmpq_sim.search.baselines.simple import Baseline
from llmpq_sim.search.bound.bound import BoundEntry, Certificate
from llmpq_sim.search.bound.certificate import Multipliers
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.planner import SearchOutcome, SearchSettings
from llmpq_sim.search.scoring import score_plan
from llmpq_sim.search.what_if import WhatIf

FORMATS = ("fp16", "int8", "int4", "int3")


def small_task(
    cluster: str = "paper-4", output_tokens: tuple[int, ...] = (10,) * 8, model: str = "opt-125m"
) -> PlanningTask:
    spec = load_model(model)
    scenario = Scenario(spec, load_cluster(cluster), BatchWorkload(32, output_tokens))
    kinds = {member.device.name: member.device for member in scenario.cluster.devices}
    costs = LayerCosts(scenario, {name: spec_profile(kind) for name, kind in kinds.items()})
    quality = nominal_quality(spec.layers)
    return PlanningTask(costs, quality, FORMATS, quality.uniform_loss("int3"))


def plan_of(*stages: tuple[str, str], batching: tuple[int, int, int] = (2, 4, 2)) -> Plan:
    """Return a plan from devices with a symbol for each layer, such as ``("t4-0", "F844")``."""
    formats = {"F": "fp16", "8": "int8", "4": "int4", "3": "int3"}
    members = [Stage(name, tuple(formats[symbol] for symbol in layers)) for name, layers in stages]
    return Plan(tuple(members), MicroBatching(*batching))


GOOD = plan_of(("v100-32g-0", "FF888888"), ("p100-12g-0", "8844"))
SLOW = plan_of(("p100-12g-1", "4" * 12), batching=(1, 1, 1))


def small_outcome(task: PlanningTask, *, wants_front: bool = False) -> SearchOutcome:
    """Return what a search might have found: its bound is 2 % below the plan's makespan."""
    best, slow = score_plan(GOOD, task), score_plan(SLOW, task)
    entry = BoundEntry(best.makespan_s * 0.98, Multipliers((), 0.0, ()))
    return SearchOutcome(
        task=task,
        settings=SearchSettings(seed=7, wants_front=wants_front),
        best=best,
        baselines=(
            Baseline("uniform", slow, None),
            Baseline("memory-weighted", None, "does not fit: stage 0 on t4-0 needs 2 GiB, has 1"),
        ),
        front=(best, slow),
        certificate=Certificate({GOOD.micro_batching: entry}),
        what_if=(
            WhatIf("without one p100-12g", best.result.tokens_per_s / 2 if best.result else None),
            WhatIf("without one v100-32g", None),
        ),
        evaluations=120,
        generations=9,
        seconds=1.5,
        ended="done",
    )


def small_fit() -> FitReport:
    """Return what a fit might have reported."""
    device = load_cluster("paper-1").devices[0].device
    profile = replace(
        spec_profile(device), status="measured", error_fraction=0.08, notes=("int3 is int4.",)
    )
    return FitReport(
        profile=profile,
        rows_used=4000,
        rows_dropped={"another library": 12, "no tokens": 0},
        errors=[FitError("gemm", "int4", "decode", 0.031, 0.092, 800)],
        baseline_errors=[FitError("layer", "int4", "decode", 0.21, 0.48, 90)],
    )


def paper(width: int = 88) -> Console:
    """Return a console without colour, whose text ``written`` gives."""
    return Console(file=StringIO(), width=width, color_system=None)


def written(console: Console) -> str:
    stream = console.file
    return stream.getvalue() if isinstance(stream, StringIO) else ""

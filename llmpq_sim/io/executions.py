"""Execution files: what was measured, with what it is of."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal, get_args

import llmpq_sim
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.execution import Execution
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.records import Codec, Header, Natural, Place, from_dict, to_dict
from llmpq_sim.core.units import MIB
from llmpq_sim.io.clusters import cluster_to_dict
from llmpq_sim.io.files import parse_json, read_text, sha256_of
from llmpq_sim.io.model_records import model_to_dict
from llmpq_sim.io.plans import SavedPlan
from llmpq_sim.simulator.continuous.settings import ContinuousSettings

LARGEST_EXECUTION_BYTES = 1024 * MIB
"""About 20 million steps: beyond that nobody waits for a comparison."""

Policy = Literal["static", "continuous"]


def _settings(fields: Fields, key: str) -> ContinuousSettings | None:
    policy, given = fields.choice("policy", get_args(Policy)), fields.has(key)
    if given == (policy == "static"):
        expected, found = ("none", "some") if given else ("those of the scheduler", "none")
        raise InputError(
            f"{fields.where}.{key}: expected {expected} for the {policy} policy, got {found}"
        )
    return from_dict(ContinuousSettings, fields.fields(key)) if given else None


@dataclass(frozen=True, kw_only=True)
class SavedExecution:
    """What an execution file says.

    Attributes:
        plan_sha256: hash of the plan that was carried out, see ``plan_sha256``.
        model: name of the model that was served.
        policy: how requests were batched.
        settings: of continuous batching; None for the static policy.
        seed: of what was drawn for the run: synthetic prompts, sampled tokens.
        llmpq_version: that wrote the file.
        concurrency: requests in flight of a closed loop; None of an open one.
        execution: what was measured; requests and steps are kept as columns.
    """

    header: ClassVar = Header("llmpq/execution", 1)

    llmpq_version: str = llmpq_sim.__version__
    seed: Natural
    plan_sha256: str
    model: str
    policy: Policy
    settings: Annotated[
        ContinuousSettings | None, Codec(_settings, lambda given: given and to_dict(given))
    ]
    concurrency: Annotated[Natural | None, Place.OPTIONAL] = None
    execution: Annotated[Execution, Place.INLINE]


def plan_sha256(saved: SavedPlan) -> str:
    """Return the hash of what a runtime carries out: model, cluster, batch and plan.

    Latency profiles only predict, so an execution stays that of a plan when they are fitted anew.
    """
    scenario = saved.task.costs.scenario
    return sha256_of(
        {
            "model": model_to_dict(scenario.model),
            "cluster": cluster_to_dict(scenario.cluster),
            "prompt_tokens": scenario.workload.prompt_tokens,
            "output_tokens": list(scenario.workload.output_tokens),
            "plan": to_dict(saved.plan),
        }
    )


def saved_execution(
    execution: Execution,
    saved: SavedPlan,
    policy: Policy,
    settings: ContinuousSettings | None,
    seed: int,
    concurrency: int | None = None,
) -> SavedExecution:
    """Return an execution with what it is of, as ``load_execution`` would."""
    model = saved.task.costs.scenario.model.name
    return SavedExecution(
        seed=seed,
        plan_sha256=plan_sha256(saved),
        model=model,
        policy=policy,
        settings=settings,
        concurrency=concurrency,
        execution=execution,
    )


# ---- reading


def load_execution(path: Path) -> SavedExecution:
    """Return what an execution file says.

    Raises:
        InputError: it cannot be read, is no such file, or says something that cannot be.
    """
    content = parse_json(read_text(path, LARGEST_EXECUTION_BYTES), path.name)
    return execution_from_dict(Fields(content, path.name))


def execution_from_dict(fields: Fields) -> SavedExecution:
    """Return the execution that ``to_dict`` made plain data of.

    Raises:
        InputError: a value is missing, unknown or cannot be.
    """
    saved = from_dict(SavedExecution, fields)
    _check_instants(fields.where, saved.execution)
    _check_agreement(fields.where, saved.execution)
    return saved


def _check_instants(where: str, execution: Execution) -> None:
    for number, each in enumerate(execution.requests):
        if not each.arrival_s <= each.first_s <= each.last_s:
            raise InputError(
                f"{where}.requests: expected request {number} to arrive, have its first and its "
                f"last token in this order, got {each.arrival_s}, {each.first_s} and "
                f"{each.last_s} s"
            )
    for number, step in enumerate(execution.steps):
        if step.ended_s < step.began_s:
            raise InputError(
                f"{where}.visits: expected visit {number} to end after it began at "
                f"{step.began_s} s, got {step.ended_s}"
            )


def _check_agreement(where: str, execution: Execution) -> None:
    """Raise InputError where parts of an execution contradict each other."""
    result, requests = execution.result, execution.requests
    stages, busy = len(execution.stage_peak_bytes), len(result.stage_busy_s)
    if result.finished != len(requests):
        raise InputError(
            f"{where}.requests: expected {result.finished} (result.finished), got {len(requests)}"
        )
    if busy != stages:
        raise InputError(
            f"{where}.stage_peak_bytes: expected {busy} stages (result.stage_busy_s), got {stages}"
        )
    for number, step in enumerate(execution.steps):
        if step.stage >= stages:
            raise InputError(
                f"{where}.visits.stage[{number}]: expected a stage below {stages}, got {step.stage}"
            )

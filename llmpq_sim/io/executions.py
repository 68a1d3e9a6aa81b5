"""Execution files: what was measured, with what it is of."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import llmpq_sim
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.execution import Execution, ServedTimes, StageVisit
from llmpq_sim.core.fields import LARGEST_NUMBER, Fields, check_header, is_number, kind_of
from llmpq_sim.core.result import SimulationResult, Summary
from llmpq_sim.core.units import MIB
from llmpq_sim.io.clusters import cluster_to_content
from llmpq_sim.io.files import parse_json, read_text, sha256_of
from llmpq_sim.io.models import model_to_content
from llmpq_sim.io.plans import SavedPlan, plan_to_content
from llmpq_sim.simulator.continuous.settings import (
    ContinuousSettings,
    settings_from_fields,
    settings_to_content,
)

SCHEMA = "llmpq/execution"
VERSION = 1
LARGEST_EXECUTION_BYTES = 1024 * MIB
"""About 20 million visits: beyond that nobody waits for a comparison."""

Policy = Literal["static", "continuous"]

Accept = Callable[[Any], bool]


@dataclass(frozen=True)
class SavedExecution:
    """What an execution file says.

    Attributes:
        execution: what was measured.
        plan_sha256: hash of the plan that was carried out, see ``plan_sha256``.
        model: name of the model that was served.
        policy: how requests were batched.
        settings: of continuous batching; None for the static policy.
        seed: of what was drawn for the run: synthetic prompts, sampled tokens.
        llmpq_version: that wrote the file.
    """

    execution: Execution
    plan_sha256: str
    model: str
    policy: Policy
    settings: ContinuousSettings | None
    seed: int
    llmpq_version: str = llmpq_sim.__version__


def plan_sha256(saved: SavedPlan) -> str:
    """Return the hash of what a runtime carries out: model, cluster, batch and plan.

    Latency profiles only predict, so an execution stays that of a plan when they are fitted anew.
    """
    scenario = saved.task.costs.scenario
    return sha256_of(
        {
            "model": model_to_content(scenario.model),
            "cluster": cluster_to_content(scenario.cluster),
            "prompt_tokens": scenario.workload.prompt_tokens,
            "output_tokens": list(scenario.workload.output_tokens),
            "plan": plan_to_content(saved.plan),
        }
    )


def saved_execution(
    execution: Execution,
    saved: SavedPlan,
    policy: Policy,
    settings: ContinuousSettings | None,
    seed: int,
) -> SavedExecution:
    """Return an execution with what it is of, as ``load_execution`` would."""
    model = saved.task.costs.scenario.model.name
    return SavedExecution(execution, plan_sha256(saved), model, policy, settings, seed)


# ---- writing


def execution_to_content(saved: SavedExecution) -> dict[str, Any]:
    """Return the execution file: requests and visits as columns, nothing rounded."""
    execution = saved.execution
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "llmpq_version": saved.llmpq_version,
        "seed": saved.seed,
        "plan_sha256": saved.plan_sha256,
        "model": saved.model,
        "policy": saved.policy,
        "settings": saved.settings and settings_to_content(saved.settings),
        "dtype": execution.dtype,
        "loading_s": execution.loading_s,
        "notes": list(execution.notes),
        "result": asdict(execution.result),
        "stage_peak_bytes": list(execution.stage_peak_bytes),
        "requests": _columns(execution.requests, ServedTimes),
        "visits": _columns(execution.visits, StageVisit),
    }


def _columns(
    rows: Sequence[ServedTimes] | Sequence[StageVisit],
    kind: type[ServedTimes] | type[StageVisit],
) -> dict[str, list[Any]]:
    return {name: [getattr(row, name) for row in rows] for name in kind.__dataclass_fields__}


# ---- reading


def load_execution(path: Path) -> SavedExecution:
    """Return what an execution file says.

    Raises:
        InputError: it cannot be read, is no such file, or says something that cannot be.
    """
    content = parse_json(read_text(path, LARGEST_EXECUTION_BYTES), path.name)
    return execution_from_fields(Fields(content, path.name))


def execution_from_fields(fields: Fields) -> SavedExecution:
    """Return the execution that ``execution_to_content`` wrote.

    Raises:
        InputError: a value is missing, unknown or cannot be.
    """
    with fields:
        check_header(fields, SCHEMA, VERSION)
        version, seed = fields.text("llmpq_version"), fields.integer("seed", least=0)
        policy = _policy(fields)
        settings = _settings(fields, policy)
        return SavedExecution(
            execution=_execution(fields),
            plan_sha256=fields.text("plan_sha256"),
            model=fields.text("model"),
            policy=policy,
            settings=settings,
            seed=seed,
            llmpq_version=version,
        )


def _policy(fields: Fields) -> Policy:
    chosen = fields.choice("policy", ("static", "continuous"))
    return "static" if chosen == "static" else "continuous"


def _settings(fields: Fields, policy: Policy) -> ContinuousSettings | None:
    given = fields.has("settings")
    if given == (policy == "static"):
        expected, found = ("none", "some") if given else ("those of the scheduler", "none")
        raise InputError(
            f"{fields.where}.settings: expected {expected} for the {policy} policy, got {found}"
        )
    return settings_from_fields(fields.fields("settings")) if given else None


def _execution(fields: Fields) -> Execution:
    result = _result(fields.fields("result"))
    requests, visits = _requests(fields.fields("requests")), _visits(fields.fields("visits"))
    peaks = _column(fields, "stage_peak_bytes", is_count, "a whole number of at least 0")
    _check_agreement(fields.where, result, requests, visits, len(peaks))
    return Execution(
        result=result,
        requests=requests,
        visits=visits,
        stage_peak_bytes=tuple(peaks),
        loading_s=fields.number("loading_s", positive=False),
        dtype=fields.text("dtype"),
        notes=fields.texts("notes"),
    )


def _result(fields: Fields) -> SimulationResult:
    with fields:
        return SimulationResult(
            requests=fields.integer("requests", least=0),
            finished=fields.integer("finished", least=0),
            output_tokens=fields.integer("output_tokens", least=0),
            makespan_s=fields.number("makespan_s", positive=False),
            ttft_s=_summary(fields.fields("ttft_s")),
            tpot_s=_summary(fields.fields("tpot_s")),
            latency_s=_summary(fields.fields("latency_s")),
            stage_busy_s=tuple(_column(fields, "stage_busy_s", is_instant, NOT_NEGATIVE)),
            stage_visits=fields.integer("stage_visits", least=0),
            itl_s=_summary(fields.fields("itl_s")),
            refused=fields.integer("refused", least=0),
            preemptions=fields.integer("preemptions", least=0),
            reused_prompt_tokens=fields.integer("reused_prompt_tokens", least=0),
            kv_peak_fraction=tuple(_column(fields, "kv_peak_fraction", is_instant, NOT_NEGATIVE)),
            good=fields.integer("good", least=0) if fields.has("good") else None,
        )


def _summary(fields: Fields) -> Summary:
    with fields:
        names = ("mean", "p50", "p90", "p95", "p99")
        return Summary(*(fields.number(name, positive=False) for name in names))


def _requests(fields: Fields) -> tuple[ServedTimes, ...]:
    with fields:
        names = _column(fields, "name", lambda value: isinstance(value, str), "a text")
        tokens = [
            _column(fields, name, is_positive_count, "a whole number of at least 1")
            for name in ("prompt_tokens", "output_tokens")
        ]
        instants = [
            _column(fields, name, is_instant, NOT_NEGATIVE)
            for name in ("arrival_s", "first_s", "last_s")
        ]
        columns = [names, *tokens, *instants]
    _check_lengths(fields.where, "requests", columns)
    requests = tuple(ServedTimes(*row) for row in zip(*columns, strict=True))
    for number, each in enumerate(requests):
        if not each.arrival_s <= each.first_s <= each.last_s:
            raise InputError(
                f"{fields.where}: expected request {number} to arrive, have its first and its last "
                f"token in this order, got {each.arrival_s}, {each.first_s} and {each.last_s} s"
            )
    return requests


def _visits(fields: Fields) -> tuple[StageVisit, ...]:
    with fields:
        counts = [
            _column(fields, name, is_count, "a whole number of at least 0")
            for name in ("stage", "visit", "decodes", "prompt_tokens")
        ]
        instants = [
            _column(fields, name, is_instant, NOT_NEGATIVE) for name in ("began_s", "ended_s")
        ]
        columns = [*counts, *instants]
    _check_lengths(fields.where, "visits", columns)
    visits = tuple(StageVisit(*row) for row in zip(*columns, strict=True))
    for number, each in enumerate(visits):
        if each.ended_s < each.began_s:
            raise InputError(
                f"{fields.where}: expected visit {number} to end after it began at "
                f"{each.began_s} s, got {each.ended_s}"
            )
    return visits


def _check_agreement(
    where: str,
    result: SimulationResult,
    requests: tuple[ServedTimes, ...],
    visits: tuple[StageVisit, ...],
    stages: int,
) -> None:
    """Raise InputError where parts of an execution contradict each other."""
    if result.finished != len(requests):
        raise InputError(
            f"{where}.requests: expected {result.finished} (result.finished), got {len(requests)}"
        )
    if len(result.stage_busy_s) != stages:
        raise InputError(
            f"{where}.stage_peak_bytes: expected {len(result.stage_busy_s)} stages "
            f"(result.stage_busy_s), got {stages}"
        )
    for number, visit in enumerate(visits):
        if visit.stage >= stages:
            raise InputError(
                f"{where}.visits.stage[{number}]: expected a stage below {stages}, "
                f"got {visit.stage}"
            )


# ---- columns

NOT_NEGATIVE = "a number of at least 0"


def is_count(value: object) -> bool:
    """Return whether the value is a whole number of at least 0."""
    return type(value) is int and 0 <= value <= LARGEST_NUMBER


def is_positive_count(value: object) -> bool:
    """Return whether the value is a whole number of at least 1."""
    return is_count(value) and value != 0


def is_instant(value: object) -> bool:
    """Return whether the value is a finite number of at least 0."""
    return is_number(value, positive=False)


def _column(fields: Fields, name: str, accept: Accept, expected: str) -> list[Any]:
    values = fields.items(name)
    for index, value in enumerate(values):
        if not accept(value):
            raise InputError(
                f"{fields.where}.{name}[{index}]: expected {expected}, got {kind_of(value)}"
            )
    return [float(value) for value in values] if accept is is_instant else values


def _check_lengths(where: str, noun: str, columns: Sequence[list[Any]]) -> None:
    lengths = sorted({len(column) for column in columns})
    if len(lengths) > 1:
        raise InputError(f"{where}: expected columns of as many {noun} each, got {lengths}")

"""Plan files: a plan with its inputs and certificate."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import llmpq_sim
from llmpq_sim.core.cluster import Cluster, Device
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, check_header, whole
from llmpq_sim.core.formats import format_named
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.plan import MicroBatching, Plan, check_plan
from llmpq_sim.core.records import Place, from_dict, to_dict
from llmpq_sim.core.scenario import Scenario
from llmpq_sim.io.clusters import cluster_from_dict, cluster_to_dict
from llmpq_sim.io.files import read_json, sha256_of
from llmpq_sim.io.model_records import model_from_dict, model_to_dict
from llmpq_sim.io.profiles import bundled_profile, kernel_sets, profile_sha256
from llmpq_sim.io.quality import check_shape, quality_from_dict, quality_to_dict
from llmpq_sim.io.tasks import (
    QualityTarget,
    batch_workload,
    checked_sensitivity,
    planning_task,
    stored_layers,
)
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.latency.needed_parts import needed_parts
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.search.bound.bound import BoundEntry, Certificate
from llmpq_sim.search.bound.problem import PlanningTask

if TYPE_CHECKING:
    from llmpq_sim.search.bound.rate_certificate import RateCertificate
    from llmpq_sim.search.online.planner import OnlineOutcome
    from llmpq_sim.search.planner import LogbookRow, SearchOutcome
    from llmpq_sim.simulator.continuous.settings import ContinuousSettings

SCHEMA = "llmpq/plan"
VERSION = 1


@dataclass(frozen=True)
class SavedPlan:
    """What a plan file says.

    Attributes:
        plan: the plan.
        task: what it was made for, with the latency profiles it was made with.
        target: the quality target.
        certificate: the proof of its bound.
        seed: of the search that found it.
        serving: how to batch continuously, where the plan was made for a trace.
        stated: figures that the file states, by name; ``verify`` recomputes them.
        rate: the proof of how many requests of that trace any plan serves a second, or None.
    """

    plan: Plan
    task: PlanningTask
    target: QualityTarget
    certificate: Certificate
    seed: int
    serving: ContinuousSettings | None = None
    stated: Mapping[str, float] = field(default_factory=dict)
    rate: RateCertificate | None = None

    @property
    def quantizers(self) -> dict[str, str]:
        """How the weights of each format are to be chosen, by name; a format without: nearest."""
        return {} if self.target.measured is None else dict(self.target.measured.quantizers)


def outcome_to_dict(outcome: SearchOutcome, target: QualityTarget) -> dict[str, Any]:
    """Return the plan file of a search: same search, same bytes."""
    task = outcome.task
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "llmpq_version": llmpq_sim.__version__,
        "seed": outcome.settings.seed,
        "inputs": task_to_dict(task, target),
        "plan": to_dict(outcome.best.plan),
        "predicted": {
            "makespan_s": outcome.best.makespan_s,
            "quality_loss": outcome.best.loss,
            "bound_s": outcome.certificate.bound_s,
        },
        "certificate": certificate_to_dict(outcome.certificate),
        "logbook": logbook_to_dict(outcome.logbook),
    }


def online_to_dict(outcome: OnlineOutcome, target: QualityTarget) -> dict[str, Any]:
    """Return the plan file of a search for a trace: that of the batch, and how to serve with it."""
    from llmpq_sim.io.rate_limits import rate_to_dict  # noqa: PLC0415 - slow to load
    from llmpq_sim.io.workloads import workload_sha256  # noqa: PLC0415 - slow to load

    task, result = outcome.task, outcome.best.result
    users = task.workload.concurrency
    return {
        **outcome_to_dict(outcome.batch, target),
        "serving": {
            "settings": to_dict(outcome.best.serving.settings),
            "trace": task.workload.name,
            "sha256": workload_sha256(task.workload),
            "requests": task.workload.requests,
            "rate_per_s": task.workload.rate_per_s,
            **({} if users is None else {"concurrency": users}),
            "objective": task.objective,
            "slo": task.objectives and asdict(task.objectives),
            "predicted": {
                "requests_per_s": result.requests_per_s,
                "tokens_per_s": result.tokens_per_s,
                "goodput_per_s": result.goodput_per_s,
                "slo_attainment": result.slo_attainment,
                "ttft_s": asdict(result.ttft_s),
                "tpot_s": asdict(result.tpot_s),
                "latency_s": asdict(result.latency_s),
            },
            "logbook": logbook_to_dict(outcome.logbook),
            **({} if task.rate is None else {"bound": rate_to_dict(task.rate)}),
        },
    }


def logbook_to_dict(logbook: Sequence[LogbookRow]) -> list[dict[str, Any]]:
    """Return a search's generations as plain data; a figure that is infinite is null."""
    return [
        {name: figure if isfinite(figure) else None for name, figure in row.items()}
        for row in logbook
    ]


def logbook_from_dict(fields: Fields) -> list[dict[str, float]]:
    """Return the generations that `logbook_to_dict` wrote in a search of a batch.

    Raises:
        InputError: a value is missing or cannot be.
    """
    rows = []
    for each in fields.each("logbook"):
        with each:
            row: dict[str, float] = {"gen": each.integer("gen", least=0)}
            row["evaluations"] = each.integer("evaluations", least=0)
            row |= {name: each.number(name) for name in ("best", "median", "worst")}
            rows.append(row)
    return rows


def task_to_dict(task: PlanningTask, target: QualityTarget) -> dict[str, Any]:
    """Return everything a plan depends on; profiles that ship by name and hash, others in full."""
    scenario = task.costs.scenario
    outputs = scenario.workload.output_tokens
    content: dict[str, Any] = {
        "model": model_to_dict(scenario.model),
        "cluster": cluster_to_dict(scenario.cluster),
        "workload": {
            "prompt_tokens": scenario.workload.prompt_tokens,
            "output_tokens": list(outputs),
        },
        "profiles": [
            _profile_to_dict(profile, task.costs.devices[kind], task.costs.scenario.model)
            for kind, profile in task.costs.profiles.items()
        ],
        "formats": list(task.formats),
        "quality": {
            "measure": task.quality.measure,
            "budget": task.budget,
            "at_least": target.at_least,
            "sensitivity": target.sensitivity and list(target.sensitivity),
            **({"measured": quality_to_dict(target.measured)} if target.measured else {}),
            **({"stored": list(target.stored)} if target.stored else {}),
        },
    }
    return {**content, "sha256": {name: sha256_of(part) for name, part in content.items()}}


def load_plan(path: Path, own: Mapping[str, DeviceProfile]) -> SavedPlan:
    """Return what a plan file says, with the profiles it names.

    Args:
        path: a file that `llmpq search` wrote, perhaps edited by hand.
        own: profiles of the user's by kind of device.

    Raises:
        InputError: the file is damaged, or a profile it names is not the one it was made with.
    """
    with Fields(read_json(path), path.name) as fields:
        check_header(fields, SCHEMA, VERSION)
        fields.text("llmpq_version")
        seed = fields.integer("seed", least=0)
        task, target = task_from_dict(fields.fields("inputs"), own)
        plan = from_dict(Plan, fields.fields("plan"))
        stated = _stated(fields.fields("predicted"))
        certificate = certificate_from_dict(fields.each("certificate"))
        if fields.has("logbook"):  # for readers
            logbook_from_dict(fields)
        serving, rate = None, None
        if fields.has("serving"):
            from llmpq_sim.io.rate_limits import serving_from_dict  # noqa: PLC0415 - slow to load

            serving, rate = serving_from_dict(fields.fields("serving"), task.costs.scenario.model)
    check_plan(plan, task.costs.scenario, f"{path.name}.plan")
    return SavedPlan(plan, task, target, certificate, seed, serving, stated, rate)


def _stated(fields: Fields) -> dict[str, float]:
    """Return the figures of a plan's prediction that can be recomputed from the file alone."""
    stated = {
        name: fields.number(name, positive=False)
        for name in ("makespan_s", "quality_loss", "bound_s")
        if fields.has(name)
    }
    fields.ignore_rest()
    return stated


def with_workload(
    saved: SavedPlan,
    requests: int | None,
    prompt_tokens: int | None,
    output_tokens: int | tuple[int, ...] | None,
) -> tuple[PlanningTask, Plan]:
    """Return a saved plan with its task under another batch, unchanged where nothing is given.

    Micro-batches larger than a smaller batch become as small as it is.

    Raises:
        InputError: the batch cannot be.
    """
    scenario = saved.task.costs.scenario
    workload = scenario.workload
    if requests is None and prompt_tokens is None and output_tokens is None:
        return saved.task, saved.plan
    if output_tokens is None and requests in (None, workload.requests):
        output_tokens = workload.output_tokens
    changed = batch_workload(
        scenario.model,
        workload.requests if requests is None else requests,
        workload.prompt_tokens if prompt_tokens is None else prompt_tokens,
        workload.longest_output_tokens if output_tokens is None else output_tokens,
    )
    costs = LayerCosts(replace(scenario, workload=changed), saved.task.costs.profiles)
    cut = saved.plan.micro_batching.within(changed.requests)
    plan = replace(saved.plan, micro_batching=cut)
    check_plan(plan, costs.scenario)
    return replace(saved.task, costs=costs), plan


def task_from_dict(
    fields: Fields, own: Mapping[str, DeviceProfile]
) -> tuple[PlanningTask, QualityTarget]:
    """Return the task and quality target that `task_to_dict` wrote.

    Raises:
        InputError: a part does not match its hash, or a value cannot be.
    """
    with fields:
        _check_hashes(fields)
        model = model_from_dict(fields.fields("model"))
        cluster = cluster_from_dict(fields.fields("cluster"))
        with fields.fields("workload") as part:
            prompt = part.integer("prompt_tokens")
            outputs = tuple(part.rows("output_tokens", whole(1)))
        profiles = _profiles(fields, cluster, own, model)
        formats = fields.texts("formats")
        for number, name in enumerate(formats):
            format_named(name, f"{fields.where}.formats[{number}]")
        target, budget, measure = _target(fields.fields("quality"), model)
    workload = batch_workload(model, len(outputs), prompt, outputs)
    task = planning_task(Scenario(model, cluster, workload), profiles, formats, target)
    if task.budget != budget or task.quality.measure != measure:
        raise InputError(
            f"{fields.where}.quality: expected a budget of {task.budget} {task.quality.measure}, "
            f"got {budget} {measure}"
        )
    return task, target


def _check_hashes(fields: Fields) -> None:
    with fields.fields("sha256") as hashes:
        for name in ("model", "cluster", "workload", "profiles", "formats", "quality"):
            stated, found = hashes.text(name), sha256_of(fields.value(name))
            if stated != found:
                raise InputError(
                    f"{fields.where}.{name}: was changed after the plan was made (SHA-256 "
                    f"{found[:12]}, stated {stated[:12]}); make a new plan with llmpq search"
                )


def _profile_to_dict(profile: DeviceProfile, device: Device, model: ModelSpec) -> dict[str, Any]:
    """Return a profile by name and hash, and in full where it is of the user's own."""
    stated = profile_sha256(profile)
    content = {"device": profile.device, "kernels": profile.kernels, "sha256": stated}
    if profile.kernels in kernel_sets(device):
        bundled = needed_parts(bundled_profile(device, profile.kernels), model.kinds)
        if bundled is profile or profile_sha256(bundled) == stated:
            return content
    return {**content, "content": to_dict(profile)}


def _profiles(
    fields: Fields, cluster: Cluster, own: Mapping[str, DeviceProfile], model: ModelSpec
) -> dict[str, DeviceProfile]:
    devices = {member.device.name: member.device for member in cluster.devices}
    profiles: dict[str, DeviceProfile] = {}
    for each in fields.each("profiles"):
        with each:
            kind, kernels, stated = each.text("device"), each.text("kernels"), each.text("sha256")
            carried = each.fields("content") if each.has("content") else None
        if kind not in devices:
            raise InputError(f"{each.where}.device: {kind!r} is not in the cluster")
        device = devices[kind]
        if kind in own:
            profile = own[kind]
        elif carried is not None:
            profile = from_dict(DeviceProfile, carried)
        elif kernels in kernel_sets(device):
            profile = bundled_profile(device, kernels)
        else:
            raise InputError(
                f"{each.where}: the plan was made with a profile of yours for {kind}, "
                f"kernels {kernels!r}; give it with --profile"
            )
        profile = needed_parts(profile, model.kinds)
        if profile_sha256(profile) != stated:
            raise InputError(
                f"{each.where}.sha256: {profile.name} is not the profile the plan was made with; "
                "give that one with --profile, or make a new plan with llmpq search"
            )
        profiles[kind] = profile
    missing = [kind for kind in devices if kind not in profiles]
    if missing:
        raise InputError(f"{fields.where}.profiles: expected a profile for {missing[0]}")
    return profiles


def _target(fields: Fields, model: ModelSpec) -> tuple[QualityTarget, float, str]:
    with fields:
        measure, budget = fields.text("measure"), fields.number("budget", positive=False)
        at_least = fields.text("at_least") if fields.has("at_least") else None
        sensitivity = None
        if fields.has("sensitivity"):
            where = f"{fields.where}.sensitivity"
            sensitivity = checked_sensitivity(fields.numbers("sensitivity"), model.layers, where)
        measured = None
        if fields.has("measured"):
            measured = quality_from_dict(fields.fields("measured"))
            check_shape(measured, model, f"{fields.where}.measured")
        stored = stored_layers(fields, model) if fields.has("stored") else None
    most_loss = None if at_least else budget
    return QualityTarget(at_least, most_loss, sensitivity, measured, stored), budget, measure


# ---- certificates


@dataclass(frozen=True)
class _Bound:
    """What a certificate says of one micro-batching."""

    batching: Annotated[MicroBatching, Place.INLINE]
    entry: Annotated[BoundEntry, Place.INLINE]


def certificate_to_dict(certificate: Certificate) -> list[dict[str, Any]]:
    """Return a certificate as plain data, an entry per micro-batching."""
    return [to_dict(_Bound(batching, entry)) for batching, entry in certificate.entries.items()]


def certificate_from_dict(entries: list[Fields]) -> Certificate:
    """Return the certificate that `certificate_to_dict` made plain data of.

    Raises:
        InputError: a value is missing, unknown or cannot be, or an entry occurs twice.
    """
    found: dict[MicroBatching, BoundEntry] = {}
    for fields in entries:
        bound = from_dict(_Bound, fields)
        if bound.batching in found:
            raise InputError(f"{fields.where}: the micro-batching has an entry already")
        found[bound.batching] = bound.entry
    return Certificate(found)

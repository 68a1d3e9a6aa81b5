"""Demonstration on this machine: profile, plan, execute and compare, in minutes.

Two cores play two unequal devices: one has every kernel, the other, as an older card would, none
that computes on packed weights. A model of real shape with random weights is too large for either
alone, and may lose less than int8 everywhere would.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from llmpq_sim.core.cluster import Cluster
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.memory import ends_bytes, layer_cache_bytes, layer_weight_bytes
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.core.records import to_dict
from llmpq_sim.core.scenario import BatchWorkload, Scenario
from llmpq_sim.core.units import KIB, MIB
from llmpq_sim.io.clusters import cluster_from_yaml
from llmpq_sim.io.files import make_folder, parse_yaml, write_json
from llmpq_sim.io.models import load_model
from llmpq_sim.io.plans import SavedPlan, outcome_to_dict
from llmpq_sim.io.profiled_clusters import cluster_from_profiles
from llmpq_sim.io.profiles import fit_measurements
from llmpq_sim.io.tasks import QualityTarget, batch_workload, planning_task
from llmpq_sim.latency.fitting.machine import ONLY_DENSE
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.quality.table import nominal_quality
from llmpq_sim.report.execution_comparison import Comparison, compare
from llmpq_sim.search.planner import SearchOutcome, SearchSettings, search
from runtimes.deployment.deploy import Deployment, deploy, write_result
from runtimes.profiling.grid import Grid, half_powers, powers
from runtimes.profiling.profiler import profile
from runtimes.profiling.random_models import make_random_model
from runtimes.profiling.settings import ProfileProgress, ProfileSettings

FAST, PLAIN = "core", "core-plain"
"""The two kinds of device: with every kernel, and with dense ones alone."""

FORMATS_OF_DEMO = ("int8", "bf16")

ROOM_BYTES = 40 * MIB
"""For activations and logits, and less than two layers."""

LOSS_FRACTION = 0.75
"""Of what int8 everywhere loses: some layers must stay at 16 bits, and which is for the search."""


SERVED_ROUNDS = 12
"""Tokens of each sequence of the pipelines that are profiled."""


@dataclass(frozen=True)
class DemoSettings:
    """What is demonstrated.

    Attributes:
        folder: where files go.
        model: a bundled model or a folder.
        requests, prompt_tokens, output_tokens: of the batch.
        runs: how often each plan is carried out, in turns; odd, so that one is the median.
        seed: of weights, prompts and search.
    """

    folder: Path
    model: str = "llama-160m"
    requests: int = 8
    prompt_tokens: int = 64
    output_tokens: int = 48
    runs: int = 3
    seed: int = 0


@dataclass(frozen=True)
class Demonstration:
    """What came of it.

    Attributes:
        settings: what was demonstrated.
        outcome: of the search.
        found_runs: the plan that the search found, predicted and measured in each run.
        even_runs: an even split in one format, likewise.
    """

    settings: DemoSettings
    outcome: SearchOutcome
    found_runs: tuple[Comparison, ...]
    even_runs: tuple[Comparison, ...]

    @property
    def found(self) -> Comparison:
        """The plan found, in the run of median throughput."""
        return median_run(self.found_runs)

    @property
    def even(self) -> Comparison:
        """The even split, in the run of median throughput."""
        return median_run(self.even_runs)

    @property
    def predicted_speedup(self) -> float:
        """How much faster the plan found is than the even split, as predicted."""
        return _rate(self.found, predicted=True) / _rate(self.even, predicted=True)

    @property
    def measured_speedup(self) -> float:
        """How much faster the plan found is than the even split, as measured."""
        return _rate(self.found, predicted=False) / _rate(self.even, predicted=False)


def demonstrate(
    settings: DemoSettings,
    on_step: Callable[[str], None],
    on_profile: Callable[[ProfileProgress], None],
) -> Demonstration:
    """Return predictions and measurements of a plan and of an even split on this machine.

    Raises:
        LlmpqError: the machine has too few cores, or something fails.
    """
    make_folder(settings.folder)
    on_step("timing kernels")
    rows = settings.folder / "rows.csv"
    rows.unlink(missing_ok=True)
    profile(
        ProfileSettings(
            rows,
            threads=1,
            models=(settings.model,),
            formats=FORMATS_OF_DEMO,
            is_quick=True,
            name=FAST,
            seed=settings.seed,
            grid=_grid(settings),
        ),
        on_profile,
    )
    on_step("fitting latency profiles")
    profiles = _fitted(rows, settings)
    cluster = _cluster(settings, profiles)
    on_step("making a model with random weights")
    model_dir = make_random_model(settings.model, settings.folder / "model", settings.seed)
    on_step("searching for a plan")
    outcome = _searched(settings, cluster, profiles)
    saved = _saved(outcome)
    even = replace(saved, plan=_even_plan(outcome))
    runs: dict[str, list[Comparison]] = {"plan": [], "even": []}
    for turn in range(1, settings.runs + 1):
        on_step(f"carrying out the plan and an even split, run {turn} of {settings.runs}")
        for name, carried in (("plan", saved), ("even", even)):
            runs[name].append(_carried_out(carried, model_dir, settings, f"{name}-{turn}"))
    return Demonstration(settings, outcome, tuple(runs["plan"]), tuple(runs["even"]))


def median_run(runs: Sequence[Comparison]) -> Comparison:
    """Return the run of median throughput: a machine that others share has bad moments."""
    return sorted(runs, key=lambda run: run.figures[0].measured)[len(runs) // 2]


def _grid(settings: DemoSettings) -> Grid:
    """Return the sizes that plans for the batch may need."""
    batch, prompt = settings.requests, settings.prompt_tokens
    contexts = tuple(prompt + settings.output_tokens * part // 2 for part in range(3))
    rows = half_powers(batch)
    return Grid(
        tokens=tuple(sorted({*half_powers(64), *(row * prompt for row in rows)})),
        decode_batches=rows,
        contexts=contexts,
        prompt_batches=rows,
        prompts=(prompt,),
        layer_decodes=tuple((row, contexts[1]) for row in rows),
        layer_prompts=tuple((row, prompt) for row in rows),
        rows=rows,
        step_rows=rows,
        message_bytes=powers(KIB, 2 * MIB, 4),
        served_rounds=SERVED_ROUNDS,
        served_dense=True,
    )


def _fitted(rows: Path, settings: DemoSettings) -> dict[str, DeviceProfile]:
    profiles = {}
    for name, kernels in ((FAST, None), (PLAIN, ONLY_DENSE)):
        report = fit_measurements([rows], name, kernels, settings.seed, lambda _: None)
        profiles[name] = report.profile
        write_json(settings.folder / f"{name}.json", to_dict(report.profile))
    return profiles


def _cluster(settings: DemoSettings, profiles: dict[str, DeviceProfile]) -> Cluster:
    """Return a cluster of both devices, and write it down."""
    paths = [settings.folder / f"{name}.json" for name in profiles]
    content = parse_yaml(cluster_from_profiles(paths, "two-cores"), "cluster.yaml")
    cluster = cluster_from_yaml(content, "cluster.yaml")
    model = load_model(settings.model)
    limits = {name: _memory_bytes(settings, model, profiles[name]) for name in profiles}
    members = tuple(
        replace(member, device=replace(member.device, memory_bytes=limits[member.device.name]))
        for member in cluster.devices
    )
    return replace(cluster, devices=members)


def _memory_bytes(settings: DemoSettings, model: ModelSpec, profile: DeviceProfile) -> int:
    """Return memory for the runtime, an end of the model, and half of the layers at 16 bits."""
    workload = _workload(settings, model)
    batching = MicroBatching(workload.requests, workload.requests, 1)
    layer_bytes = layer_weight_bytes(model.only_kind, FORMATS["bf16"]) + layer_cache_bytes(
        model.only_kind, workload, batching
    )
    machine = profile.machine
    if machine is None:
        raise InputError(f"profile {profile.name}: expected the machine it was measured on")
    return round(
        machine.runtime_bytes
        + ends_bytes(model, True, False)
        + model.layers / 2 * layer_bytes
        + ROOM_BYTES
    )


def _workload(settings: DemoSettings, model: ModelSpec) -> BatchWorkload:
    return batch_workload(model, settings.requests, settings.prompt_tokens, settings.output_tokens)


def _searched(
    settings: DemoSettings, cluster: Cluster, profiles: dict[str, DeviceProfile]
) -> SearchOutcome:
    model = load_model(settings.model)
    scenario = Scenario(model, cluster, _workload(settings, model))
    target = _target(model)
    task = planning_task(scenario, profiles, FORMATS_OF_DEMO, target)
    outcome = search(task, SearchSettings(seed=settings.seed))
    write_json(settings.folder / "plan.json", outcome_to_dict(outcome, target))
    return outcome


def _target(model: ModelSpec) -> QualityTarget:
    """Return what a plan may lose."""
    return QualityTarget(None, LOSS_FRACTION * nominal_quality(model.layers).uniform_loss("int8"))


def _saved(outcome: SearchOutcome) -> SavedPlan:
    return SavedPlan(
        outcome.best.plan,
        outcome.task,
        _target(outcome.task.costs.scenario.model),
        outcome.certificate,
        outcome.settings.seed,
    )


def _even_plan(outcome: SearchOutcome) -> Plan:
    """Return the even split in one format that others would plan."""
    uniform = next(one for one in outcome.baselines if one.name == "uniform")
    if uniform.score is None:
        raise InputError(f"the even split is no plan here: {uniform.infeasible_reason}")
    return uniform.score.plan


def _carried_out(
    saved: SavedPlan, model_dir: Path, settings: DemoSettings, name: str
) -> Comparison:
    deployment = Deployment(
        saved=saved,
        runtime="torch",
        model_dir=model_dir,
        requests_file=None,
        trace=None,
        policy="static",
        token_budget=None,
        sequence_limit=None,
        out=None,
        resume=False,
        seed=settings.seed,
    )
    outcome = deploy(deployment)
    if outcome.measured is None:
        raise InputError("expected a measurement, got none")
    write_result(settings.folder / f"{name}.result.json", outcome.measured)
    return compare(saved, outcome.measured)


def _rate(comparison: Comparison, *, predicted: bool) -> float:
    figure = comparison.figures[0]
    return figure.predicted if predicted else figure.measured

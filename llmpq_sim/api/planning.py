"""The planner as a function: a model, a cluster and a workload in, the best plan out."""

from collections.abc import Callable, Sequence
from pathlib import Path

from llmpq_sim.api.asked_model import Model, asked_model
from llmpq_sim.api.planned import Planned, Profiles
from llmpq_sim.api.quality_target import QualityOptions
from llmpq_sim.api.replaying import ServingOptions, asked_trace
from llmpq_sim.api.splitting import Split, asked_split, check_split
from llmpq_sim.api.tasks import TaskOptions, asked_batch, batch_task, trace_task
from llmpq_sim.core.cluster import Cluster
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.io.checkpoints import resumed_state, search_sha256, write_checkpoint
from llmpq_sim.io.tasks import QualityTarget
from llmpq_sim.io.workloads import TraceOptions
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.frame import SearchProgress
from llmpq_sim.search.online.pinned import search_online_pinned
from llmpq_sim.search.online.planner import OnlineOutcome, search_online
from llmpq_sim.search.online.task import Objective, OnlineTask
from llmpq_sim.search.pinned import search_pinned
from llmpq_sim.search.pins import Pins
from llmpq_sim.search.planner import SearchSettings, search


def plan(
    *,
    model: Model,
    cluster: str | Path | Cluster,
    batch: int | None = None,
    prompt_tokens: int | None = None,
    output_tokens: int | Sequence[int] | Path | None = None,
    trace: str | Path | TraceOptions | None = None,
    service: ServingOptions | None = None,
    objective: Objective | None = None,
    quality: str | float | QualityOptions | None = None,
    formats: str | Sequence[str] | None = None,
    kernels: str | None = None,
    profiles: Profiles = (),
    seed: int = 0,
    settings: SearchSettings | None = None,
    split: Split | None = None,
    checkpoint: Path | None = None,
    resume: bool = False,
    on_progress: Callable[[SearchProgress], None] = lambda _: None,
    on_trace: Callable[[OnlineTask], None] = lambda _: None,
) -> Planned:
    """Return the best plan found for a batch, or with ``trace`` for requests over time.

    Args:
        model: bundled name or hub id, folder with a ``config.json``, or the model itself.
        cluster: bundled name, ``.yaml`` file, or the cluster itself.
        batch: requests of the batch; 32 unless told.
        prompt_tokens: of each (padded) prompt; 512 unless told.
        output_tokens: to generate per request, one number for all or one for each, or a file with
            a number a line; 128 unless told.
        trace: requests over time instead of a batch: a file, a bundled name, or what
            ``llmpq_sim.io.workloads.TraceOptions`` says.
        service: limits in milliseconds that a good request of the trace meets.
        objective: of the plan for a trace: ``goodput``, ``throughput``, ``mean-latency``,
            ``p99-latency`` or ``cost``; goodput where there are limits, throughput of a closed
            loop, or else mean latency.
        quality: no worse than this format everywhere, or the largest loss in nominal nats per
            token, or what ``QualityOptions`` says; as int4 everywhere unless told.
        formats: weight formats that layers may have, in a sequence or with commas between.
        kernels: kernel set for every device; each one's first unless told.
        profiles: latency profiles of the user's own, or files that hold them.
        seed: the same seed gives the same plan.
        settings: of the search, instead of ``seed``.
        split: layers of each device where they are decided already; the rest is sought, and the
            best plan without it too. Not with ``trace`` or ``checkpoint``.
        checkpoint: file that keeps the state of a search for a batch after each generation.
        resume: whether to go on from the state in ``checkpoint``.
        on_progress: receives every step.
        on_trace: receives the task of a trace before its search, with the proven limit on its rate.

    Raises:
        InputError: a name, a file or a figure says something that cannot be.
        InfeasibleError: no plan fits the memory within the quality target.
    """
    wanted = _quality_options(quality)
    asked = asked_model(model, formats, wanted)
    spec, target = asked.spec, asked.target
    options = TaskOptions(cluster, asked.formats, kernels, tuple(profiles), target)
    how = settings or SearchSettings(seed=seed)
    check_split(split, checkpoint, how)
    _check_together(trace, checkpoint, (batch, prompt_tokens, output_tokens), resume=resume)
    pins, options, said = _decided(split, spec, options, wanted)
    said = (*asked.notes, *said)
    if trace is not None:
        requests = asked_trace(trace, how.seed)
        served, notes = trace_task(spec, requests, service or ServingOptions(), objective, options)
        on_trace(served)
        return Planned(_served(served, pins, how, on_progress), options.target, (*said, *notes))
    workload = asked_batch(spec, batch, prompt_tokens, output_tokens)
    task, notes = batch_task(spec, workload, options)
    if pins is not None:
        return Planned(search_pinned(task, pins, how, on_progress), options.target, (*said, *notes))
    found = _planned(task, target, how, checkpoint, resume=resume, on_progress=on_progress)
    return found.noted((*said, *notes))


def _check_together(
    trace: object, checkpoint: Path | None, requests: tuple[object, ...], *, resume: bool
) -> None:
    """Raise InputError where a trace, a batch and a checkpoint do not go together."""
    if resume and (checkpoint is None or trace is not None):
        raise InputError("resume: goes with the checkpoint of a search for a batch")
    if trace is not None and any(each is not None for each in requests):
        raise InputError("trace: brings its own requests; leave the batch out")


def _decided(
    split: Split | None, model: ModelSpec, options: TaskOptions, quality: QualityOptions
) -> tuple[Pins | None, TaskOptions, tuple[str, ...]]:
    """Return what `asked_split` does, where layers are decided at all."""
    return (None, options, ()) if split is None else asked_split(split, model, options, quality)


def _served(
    task: OnlineTask,
    pins: Pins | None,
    settings: SearchSettings,
    on_progress: Callable[[SearchProgress], None],
) -> OnlineOutcome:
    """Return the best service of a trace, with layers where they are to stay."""
    if pins is None:
        return search_online(task, settings, on_progress)
    return search_online_pinned(task, pins, settings, on_progress)


def _planned(
    task: PlanningTask,
    target: QualityTarget,
    settings: SearchSettings,
    checkpoint: Path | None,
    *,
    resume: bool,
    on_progress: Callable[[SearchProgress], None],
) -> Planned:
    """Return the best plan for a batch, its search's state kept in a file where one is named."""
    if checkpoint is None:
        return Planned(search(task, settings, on_progress=on_progress), target)
    search_hash = search_sha256(task, target, settings)
    state, missing = resumed_state(checkpoint, task, search_hash) if resume else (None, [])
    outcome = search(
        task,
        settings,
        resumed=state,
        on_progress=on_progress,
        on_state=lambda reached: write_checkpoint(checkpoint, reached, search_hash),
    )
    return Planned(outcome, target, tuple(missing), checkpoint)


def _quality_options(quality: str | float | QualityOptions | None) -> QualityOptions:
    if isinstance(quality, QualityOptions):
        return quality
    return QualityOptions(at_least=None if quality is None else str(quality))

"""The planner as a function: a model, a cluster and a workload in, the best plan out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from llmpq_sim.api.asked_model import Model, asked_model
from llmpq_sim.api.kv_choice import fastest_of_caches
from llmpq_sim.api.planned import Planned, Profiles
from llmpq_sim.api.quality_target import QualityOptions
from llmpq_sim.api.replaying import ServingOptions, asked_trace
from llmpq_sim.api.splitting import Split, asked_split, check_split
from llmpq_sim.api.tasks import TaskOptions, asked_batch, batch_task, trace_task
from llmpq_sim.core.cluster import Cluster
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.kv_formats import kv_formats_listed
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.scenario import BatchWorkload
from llmpq_sim.io.checkpoints import resumed_state, search_sha256, write_checkpoint
from llmpq_sim.io.workloads import TraceOptions
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.frame import SearchProgress
from llmpq_sim.search.online.pinned import search_online_pinned
from llmpq_sim.search.online.planner import search_online
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
    kv_formats: str | Sequence[str] | None = None,
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
        kv_formats: formats of the KV cache to choose from; 16 bits unless told. Of several the
            fastest is taken; that needs a batch, and keeps no checkpoint.
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
    options = TaskOptions(cluster, asked.formats, kernels, tuple(profiles), asked.target)
    how = settings or SearchSettings(seed=seed)
    check_split(split, checkpoint, how)
    _check_together(trace, checkpoint, (batch, prompt_tokens, output_tokens), resume=resume)
    pins, options, said = _decided(split, asked.spec, options, wanted)
    caches = _asked_caches(kv_formats, trace, resume=resume)
    kept = checkpoint if len(caches) < 2 else None
    way = _Way(options, pins, how, kept, resume, on_progress)

    def found(spec: ModelSpec) -> Planned:
        if trace is None:
            return way.of_batch(asked_batch(spec, batch, prompt_tokens, output_tokens), spec)
        requests, limits = asked_trace(trace, how.seed), service or ServingOptions()
        served, notes = trace_task(spec, requests, limits, objective, options)
        on_trace(served)
        return way.of_trace(served).noted(notes)

    return fastest_of_caches(asked.spec, caches, found).noted((*asked.notes, *said))


@dataclass(frozen=True)
class _Way:
    """How plans are sought: see the arguments of ``plan``."""

    options: TaskOptions
    pins: Pins | None
    settings: SearchSettings
    checkpoint: Path | None
    resume: bool
    on_progress: Callable[[SearchProgress], None]

    def of_trace(self, task: OnlineTask) -> Planned:
        """Return the best service of a trace, with layers where they are to stay."""
        if self.pins is None:
            outcome = search_online(task, self.settings, self.on_progress)
        else:
            outcome = search_online_pinned(task, self.pins, self.settings, self.on_progress)
        return Planned(outcome, self.options.target)

    def of_batch(self, workload: BatchWorkload, model: ModelSpec) -> Planned:
        """Return the best plan for a batch."""
        task, notes = batch_task(model, workload, self.options)
        if self.pins is None:
            return self._kept(task).noted(notes)
        outcome = search_pinned(task, self.pins, self.settings, self.on_progress)
        return Planned(outcome, self.options.target, tuple(notes))

    def _kept(self, task: PlanningTask) -> Planned:
        """Return the best plan, its search's state kept in a file where one is named."""
        checkpoint, target, settings = self.checkpoint, self.options.target, self.settings
        if checkpoint is None:
            return Planned(search(task, settings, on_progress=self.on_progress), target)
        search_hash = search_sha256(task, target, settings)
        state, missing = None, list[str]()
        if self.resume:
            state, missing = resumed_state(checkpoint, task, search_hash)
        outcome = search(
            task,
            settings,
            resumed=state,
            on_progress=self.on_progress,
            on_state=lambda reached: write_checkpoint(checkpoint, reached, search_hash),
        )
        return Planned(outcome, target, tuple(missing), checkpoint)


def _asked_caches(
    kv_formats: str | Sequence[str] | None, trace: object, *, resume: bool
) -> tuple[str, ...]:
    """Return the KV cache formats to choose from, checked to go with what else is asked."""
    caches = kv_formats_listed(kv_formats, "--kv-formats")
    if len(caches) < 2:
        return caches
    if trace is not None:
        raise InputError("--kv-formats: a search for a trace takes one format; give one")
    if resume:
        raise InputError("--resume: a search over KV cache formats keeps no checkpoint; give one")
    return caches


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


def _quality_options(quality: str | float | QualityOptions | None) -> QualityOptions:
    if isinstance(quality, QualityOptions):
        return quality
    return QualityOptions(at_least=None if quality is None else str(quality))

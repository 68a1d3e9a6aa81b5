"""Profiler of a machine, from its peaks to the messages between its stages."""

import random
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import median

import torch

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.machine import Machine, machine_path
from llmpq_sim.io.profiles import machine_beside, write_machine
from runtimes.profiling.co_runners import busy_co_runners
from runtimes.profiling.conditions import MEMORY_FRACTION, Conditions, needed_bytes
from runtimes.profiling.forecast import Forecast, Peaks
from runtimes.profiling.grid import (
    attention_series,
    check_timed,
    end_series,
    expert_series,
    gemm_series,
    has_plain_layers,
    head_gemm_series,
    layer_series,
    link_series,
    without_repeats,
)
from runtimes.profiling.kernels import kernels_of
from runtimes.profiling.links import link_timings
from runtimes.profiling.machine_facts import measured_machine
from runtimes.profiling.points import Point, Series
from runtimes.profiling.processor import pinned
from runtimes.profiling.rows_files import RowsFile, open_rows
from runtimes.profiling.served import (
    ServedPipeline,
    served_pipelines,
    served_timings,
    serves_here,
)
from runtimes.profiling.session import Session
from runtimes.profiling.settings import (
    OnProgress,
    ProfileProgress,
    ProfileSettings,
    ProfileSummary,
    ignore_profile_progress,
)
from runtimes.profiling.switches import dense_from_tokens
from runtimes.profiling.task import Task, checked_task
from runtimes.profiling.timing import stopwatch_of
from runtimes.torch_pipeline.engine.cuda_graphs import CudaRecorder, Work


@dataclass(frozen=True)
class Agenda:
    """All series of a profile.

    Attributes:
        kernels: matrix products, attention, ends and steps.
        layers: whole layers, timed last because they choose kernels as a deployment would.
        served: real pipelines.
        links: messages.
        too_large: points that do not fit into memory.
    """

    kernels: list[Series]
    layers: list[Series]
    served: tuple[ServedPipeline, ...]
    links: Series
    too_large: int

    @property
    def points(self) -> list[Point]:
        """All points that are to be measured."""
        served = [pipeline.points for pipeline in self.served]
        parts = (*self.kernels, *self.layers, *served, self.links)
        return [point for series in parts for point in series]


def profile(
    settings: ProfileSettings, on_progress: OnProgress = ignore_profile_progress
) -> ProfileSummary:
    """Time kernels, layers and links of a device, and write rows and the machine's facts.

    An interrupted run keeps the rows it has; with ``resume`` another measures the others.

    Args:
        settings: what, and how thoroughly.
        on_progress: told before each measurement.

    Raises:
        InputError: a setting cannot be, or a file cannot be written.
        ExecutionError: a helper process failed, or memory ran out.
    """
    began_s = time.monotonic()
    task = checked_task(settings)
    recorded = settings.records_on(task.target.device.type)
    conditions = Conditions(task.target, task.dtype, task.models, {}, recorded)
    agenda = agenda_of(task, conditions)
    with (
        pinned(task.target),
        torch.inference_mode(),
        open_rows(settings.out, task.origin, resume=settings.resume) as rows,
    ):
        on_progress(ProfileProgress(0.0, "the machine's peaks", None))
        machine = _machine(task)
        session = _session(task, agenda, machine, rows, on_progress)
        with busy_co_runners(task) as neighbours:
            _measure(task, agenda, conditions, session)
        machine = _measure_served(agenda, task, session, machine)
        _measure_links(agenda, conditions, session)
    return ProfileSummary(
        rows_path=settings.out,
        machine_path=machine_path(settings.out),
        rows=len(rows.timings),
        measured=session.measured,
        disturbed=sum(timing.is_disturbed for timing in rows.timings.values()),
        too_long=session.too_long,
        too_large=agenda.too_large,
        dense_from_tokens=dense_from_tokens(settings.out, machine.formats),
        machine=machine,
        elapsed_s=time.monotonic() - began_s,
        neighbours=neighbours,
    )


def agenda_of(task: Task, conditions: Conditions) -> Agenda:
    """Return everything that a task measures, in the order in which it does."""
    grid, order = task.settings.sizes, random.Random(task.settings.seed)
    kernels: list[Series] = []
    layers: list[Series] = []
    for model in task.models.values():
        spec = model.spec
        check_timed(spec)

        def own_kernels(name: str, shape: tuple[int, int]) -> tuple[str, ...]:
            return kernels_of(name, shape, conditions.device, conditions.dtype)

        kernels += gemm_series(spec, task.formats, own_kernels, grid)
        kernels += head_gemm_series(spec, task.unquantized, own_kernels, grid)
        kernels += attention_series(spec, grid)
        kernels += expert_series(spec, task.formats, grid)
        kernels += end_series(spec, task.unquantized, grid)
        layers += layer_series(spec, task.formats, grid, conditions.device.type)
    everything = [without_repeats(kernels), layers, [link_series(grid)]]
    limit_bytes = int(MEMORY_FRACTION * conditions.target.free_bytes())
    fitting = [
        [tuple(p for p in series if needed_bytes(p, conditions) <= limit_bytes) for series in part]
        for part in everything
    ]
    too_large = _count(everything) - _count(fitting)
    kernels, layers = ([series for series in part if series] for part in fitting[:2])
    order.shuffle(kernels)  # a slow drift of the machine is not to look like an effect of sizes
    order.shuffle(layers)
    specs = [
        model.spec
        for model in task.models.values()
        if serves_here(task.target) and has_plain_layers(model.spec)
    ]
    served = tuple(
        pipeline
        for spec in specs
        for pipeline in served_pipelines(
            spec, task.formats, grid.served_rounds, limit_bytes, with_dense=grid.served_dense
        )
    )
    return Agenda(kernels, layers, served, fitting[2][0], too_large)


def _count(parts: Iterable[Iterable[Series]]) -> int:
    return sum(len(series) for part in parts for series in part)


def _machine(task: Task) -> Machine:
    """Return the machine's facts, those of the run that is resumed where there is one.

    Raises:
        InputError: that run was made under other conditions.
    """
    target, settings = task.target, task.settings
    known = machine_beside(settings.out) if settings.resume else None
    if known is None:
        found = measured_machine(task.name, target, task.formats, settings.timing_effort)
        write_machine(settings.out, found)
        return found
    for what, before, now in (
        ("device", known.device, task.name),
        ("torch_device", known.torch_device, target.device.type),
        ("processor", known.processor, target.processor),
        ("threads", known.threads, target.threads),
        ("torch_version", known.torch_version, task.origin.version),
    ):
        if before != now:
            raise InputError(
                f"--resume: {machine_path(settings.out)}, {what}: expected {now}, got {before}; "
                "rows of one file belong to one machine and setting: give another --out"
            )
    merged = replace(known, formats=tuple(dict.fromkeys((*known.formats, *task.formats))))
    write_machine(settings.out, merged)
    return merged


def _session(
    task: Task, agenda: Agenda, machine: Machine, rows: RowsFile, on_progress: OnProgress
) -> Session:
    effort = task.settings.timing_effort
    missing = [point for point in agenda.points if point not in rows.timings]
    weights = {
        name: max(kind.formatted_weights for kind in model.spec.kinds)
        for name, model in task.models.items()
    }
    peaks = Peaks(machine.flops_per_s, machine.memory_bytes_per_s)
    forecast = Forecast(missing, peaks, weights, effort)
    stopwatch = stopwatch_of(task.target.device, task.target.threads)
    recorder = _recorded_alone if task.settings.records_on(task.target.device.type) else None
    return Session(rows, stopwatch, effort, forecast, on_progress, recorder)


def _recorded_alone(work: Work) -> Work:
    """Record kernels in memory of their own, which is free again with the recording."""
    return CudaRecorder()(work)


def _measure(task: Task, agenda: Agenda, conditions: Conditions, session: Session) -> None:
    for series in agenda.kernels:
        session.run(series, conditions)
    switches = dense_from_tokens(task.settings.out, task.formats)
    chosen = replace(conditions, dense_from_tokens=switches)
    for series in agenda.layers:
        session.run(series, chosen)


def _measure_served(agenda: Agenda, task: Task, session: Session, machine: Machine) -> Machine:
    """Time steps of real pipelines; return the machine with the memory that a stage takes there.

    The median of all stages counts: equal runs differ by some tens of megabytes.
    """
    known = session.rows.timings
    missing = [one for one in agenda.served if not known.keys() >= set(one.points)]
    if not missing:
        return machine
    session.announce(missing[0].points[0])
    switches = dense_from_tokens(task.settings.out, task.formats)
    stage_bytes: list[int] = []
    for pipeline, served in zip(missing, served_timings(missing, task, switches), strict=True):
        if served is None:
            session.leave_out(pipeline.points)
            continue
        stage_bytes += served.beside_bytes
        for point, timing in zip(pipeline.points, served.timings, strict=True):
            if point not in known:
                session.keep(point, timing)
    if not stage_bytes:
        return machine
    served_bytes = round(median(stage_bytes))
    found = replace(machine, runtime_bytes=max(machine.runtime_bytes, served_bytes))
    write_machine(task.settings.out, found)
    return found


def _measure_links(agenda: Agenda, conditions: Conditions, session: Session) -> None:
    missing = tuple(point for point in agenda.links if point not in session.rows.timings)
    if not missing:
        return
    session.announce(missing[0])
    for point, timing in zip(
        missing, link_timings(missing, conditions.target, session.effort), strict=True
    ):
        session.keep(point, timing)

"""Job for processes made of a plan, checked before anything loads."""

import os
from dataclasses import replace
from pathlib import Path

import torch

from llmpq_sim.core.caches import bounded_blocks_of
from llmpq_sim.core.errors import InfeasibleError, InputError
from llmpq_sim.core.kv_formats import PLAIN
from llmpq_sim.core.memory import plan_memory
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.io.model_records import model_to_dict
from llmpq_sim.io.models import read_model
from llmpq_sim.latency.fitting.machine import ONLY_DENSE
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.simulator.continuous.compilation import ServingCosts, compile_pipeline
from runtimes.base import Job, TokenRequest
from runtimes.deployment.job_checks import check_job_alone
from runtimes.torch_pipeline.engine.families import check_executed
from runtimes.torch_pipeline.engine.static_schedule import most_rows
from runtimes.torch_pipeline.processes.job_spec import JobSpec, StageSpec
from runtimes.torch_pipeline.weights.checkpoint import open_checkpoint
from runtimes.torch_pipeline.weights.formats.registry import check_stored
from runtimes.torch_pipeline.weights.kernels import device_named
from runtimes.torch_pipeline.weights.linear import NEVER
from runtimes.torch_pipeline.weights.published.packings import DECODED_AS
from runtimes.torch_pipeline.weights.quantizers import check_quantizers

DTYPES = ("bf16", "fp16", "fp32")


def check_job(job: Job) -> None:
    """Check that a job could be run here.

    Raises:
        LlmpqError: it could not.
    """
    check_job_alone(job)
    if job.model_dir is None:
        raise InputError("--model-dir: the torch runtime needs the model's folder")
    _check_cache(job.saved.task.costs.scenario.model)
    _check_model(_model_in(job.model_dir), job.saved.task.costs.scenario.model, job)
    formats = job.saved.plan.layer_formats
    check_stored([DECODED_AS.get(name, name) for name in formats], "plan")
    check_executed(job.saved.task.costs.scenario.model)
    open_checkpoint(job.model_dir).check(formats)
    if job.options.dtype not in (None, *DTYPES):
        raise InputError(f"--dtype: expected one of {', '.join(DTYPES)}, got {job.options.dtype}")
    if job.options.batch_invariant and job.options.uses_cuda_graphs:
        raise InputError("--batch-invariant: expected without --cuda-graphs; leave one of them out")
    check_quantizers(job.saved.quantizers, "plan")
    _check_nodes(job)
    _check_devices(job)


def build_job(job: Job) -> JobSpec:
    """Return what the processes of a job need to know.

    Raises:
        InfeasibleError: there is no room for the KV cache of a single request.
    """
    saved, options = job.saved, job.options
    if job.model_dir is None:
        raise InputError("--model-dir: the torch runtime needs the model's folder")
    rows, context_tokens = cache_shape(job)
    settings = job.settings
    if settings is not None:
        settings = replace(settings, sequence_limit=min(settings.sequence_limit, rows))
    workload = saved.task.costs.scenario.workload
    return JobSpec(
        model_dir=job.model_dir.resolve(),
        dtype=dtype_of(job),
        stages=stage_specs(job),
        batch=workload.requests,
        micro_batching=saved.plan.micro_batching,
        settings=settings,
        cache_rows=rows,
        cache_context_tokens=context_tokens,
        requests=_arriving(job),
        weight_cache=options.weight_cache and options.weight_cache.resolve(),
        uses_cuda_graphs=options.uses_cuda_graphs,
        quantizers=saved.quantizers,
        batch_invariant=options.batch_invariant,
        concurrency=job.concurrency,
    )


def _arriving(job: Job) -> tuple[TokenRequest, ...]:
    """Return requests as they arrive: the static policy and closed loops know no instants."""
    if job.settings is not None and job.concurrency is None:
        return job.requests
    return tuple(replace(request, arrival_s=0.0) for request in job.requests)


def stage_specs(job: Job) -> tuple[StageSpec, ...]:
    """Return where and how each stage is computed."""
    scenario = job.saved.task.costs.scenario
    devices, cores = stage_devices(job), stage_cores(job)
    memory = plan_memory(job.saved.plan, scenario)
    return tuple(
        StageSpec(
            name=stage.device,
            first_layer=first,
            formats=stage.formats,
            device=devices[number],
            cores=cores[number],
            dense_from_tokens=kernel_crossovers(profile),
            is_dense_only=profile.kernels == ONLY_DENSE,
            memory_limit_bytes=(
                memory[number].limit_bytes if job.options.enforces_memory else None
            ),
        )
        for number, (stage, first, profile) in enumerate(
            zip(
                job.saved.plan.stages,
                job.saved.plan.first_layers(),
                stage_profiles(job),
                strict=True,
            )
        )
    )


def kernel_crossovers(profile: DeviceProfile) -> dict[str, int]:
    """Return by format the tokens from which weights are decoded, as the profile was fitted.

    A profile that was measured here has none for a format whose fused kernel is always faster;
    any other profile leaves it to the runtime's defaults.
    """
    if profile.machine is None:
        return dict(profile.dense_from_tokens)
    return dict.fromkeys(profile.machine.formats, NEVER) | dict(profile.dense_from_tokens)


def stage_profiles(job: Job) -> list[DeviceProfile]:
    """Return the latency profile of each stage's device."""
    costs = job.saved.task.costs
    cluster = costs.scenario.cluster
    kinds = [
        cluster.devices[cluster.index(stage.device, "plan")].device.name
        for stage in job.saved.plan.stages
    ]
    return [costs.profiles[kind] for kind in kinds]


def stage_devices(job: Job) -> list[str]:
    """Return the PyTorch device of each stage; GPUs are numbered within a machine."""
    if job.options.devices is not None:
        return list(job.options.devices)
    devices, used = [], dict.fromkeys(set(stage_nodes(job)), 0)
    for profile, node in zip(stage_profiles(job), stage_nodes(job), strict=True):
        if is_cpu(profile):
            devices.append("cpu")
        else:
            devices.append(f"cuda:{used[node]}")
            used[node] += 1
    return devices


def is_cpu(profile: DeviceProfile) -> bool:
    """Return whether a profile is of a processor: it says so, or its device is named so."""
    if profile.machine is not None:
        return profile.machine.torch_device == "cpu"
    return profile.device.split("-")[0] == "cpu"


def stage_cores(job: Job) -> list[tuple[int, ...]]:
    """Return the cores of each stage: as many as were profiled, none twice while there are enough.

    A stage on a GPU is left to the system, and so are those of other machines.
    """
    if not hasattr(os, "sched_getaffinity"):
        return [()] * len(job.saved.plan.stages)
    own, devices = local_stages(job), stage_devices(job)
    cores = sorted(os.sched_getaffinity(0))
    local = [stage for stage in own if devices[stage] == "cpu"]
    share = max(1, len(cores) // max(1, len(local)))
    given: list[tuple[int, ...]] = [()] * len(devices)
    used = 0
    for stage in local:
        machine = stage_profiles(job)[stage].machine
        wanted = min(machine.threads if machine else share, len(cores))
        given[stage] = tuple(sorted({cores[(used + i) % len(cores)] for i in range(wanted)}))
        used += wanted
    return given


def stage_nodes(job: Job) -> list[int]:
    """Return the machine of each stage, numbered as the pipeline meets them; 0 for one machine."""
    if job.options.nodes == 1:
        return [0] * len(job.saved.plan.stages)
    cluster = job.saved.task.costs.scenario.cluster
    names = [
        cluster.devices[cluster.index(stage.device, "plan")].node for stage in job.saved.plan.stages
    ]
    order = list(dict.fromkeys(names))
    return [order.index(name) for name in names]


def local_stages(job: Job) -> range:
    """Return the stages of this machine, which are consecutive."""
    own = [s for s, node in enumerate(stage_nodes(job)) if node == job.options.node_rank]
    return range(own[0], own[-1] + 1)


def dtype_of(job: Job) -> str:
    """Return the type in which everything is computed that is not quantized.

    fp16 where a layer of the plan is fp16 or a device lacks bf16, or else bf16.
    """
    if job.options.dtype is not None:
        return job.options.dtype
    scenario, plan = job.saved.task.costs.scenario, job.saved.plan
    if "fp16" in plan.layer_formats:
        return "fp16"
    kinds = [scenario.cluster.index(stage.device, "plan") for stage in plan.stages]
    lacks = any("bf16" not in scenario.cluster.devices[kind].device.formats for kind in kinds)
    return "fp16" if lacks and "bf16" not in plan.layer_formats else "bf16"


def cache_shape(job: Job) -> tuple[int, int]:
    """Return rows and context tokens of every stage's KV cache.

    The static policy has those of the plan, more where a smaller last batch needs them. Continuous
    batching has rows for the longest request, as many as the tightest stage has room for, no more
    than the sequence limit.

    Raises:
        InfeasibleError: there is no room for a single row.
    """
    scenario, batching = job.saved.task.costs.scenario, job.saved.plan.micro_batching
    if job.settings is None:
        batch = scenario.workload.requests
        rows = max(batching.wave_rows(batch), most_rows(len(job.requests), batch, batching))
        return rows, scenario.workload.context_tokens
    context_tokens = max(request.context_tokens for request in job.requests)
    settings = job.settings
    costs = ServingCosts(scenario.model, scenario.cluster, job.saved.task.costs.profiles)
    pipeline = compile_pipeline(job.saved.plan, costs, settings)
    blocks, needed = pipeline.block_capacity, settings.blocks(context_tokens)
    room = blocks // (needed + bounded_blocks_of(pipeline.bounded_blocks, needed))
    if room == 0:
        raise InfeasibleError(
            f"the longest request has {context_tokens} tokens of context, and the tightest stage "
            f"room for {blocks * settings.block_tokens}"
        )
    return min(room, settings.sequence_limit, len(job.requests)), context_tokens


def _check_cache(model: ModelSpec) -> None:
    """Raise InputError for a plan with a KV cache in a format that the runtime lacks."""
    narrow = {kind.kv_format for kind in model.kinds} - {PLAIN}
    if narrow:
        raise InputError(
            f"plan: the torch runtime keeps its KV cache at 16 bits, the plan has "
            f"{', '.join(sorted(narrow))}; plan without --kv-formats"
        )


def _model_in(folder: Path) -> ModelSpec:
    """Return the model of a folder, with what a quantized checkpoint keeps at 16 bits marked."""
    read = read_model(str(folder))
    return read.spec if read.stored is None else read.stored.applied(read.spec)


def _check_model(found: ModelSpec, planned: ModelSpec, job: Job) -> None:
    """Raise InputError unless the folder's model has the shapes the plan was made for."""
    of_plan, of_folder = model_to_dict(planned), model_to_dict(found)
    for name in dict.fromkeys((*of_plan, *of_folder)):
        expected, got = of_plan.get(name), of_folder.get(name)
        if name not in ("name", "dtype", "max_positions") and expected != got:
            raise InputError(
                f"--model-dir: {job.model_dir} is not the plan's model {planned.name}: "
                f"expected {name} {expected}, got {got}"
            )


def _check_nodes(job: Job) -> None:
    nodes, options = stage_nodes(job), job.options
    if options.nodes == 1 and options.node_rank:
        raise InputError("--node-rank: expected 0 on a single machine; give --nodes as well")
    if options.nodes > 1 and options.master is None:
        raise InputError("--master: several machines need HOST:PORT at which they meet")
    found = len(set(nodes))
    if options.nodes > 1 and found != options.nodes:
        raise InputError(
            f"--nodes: the plan's stages are on {found} nodes of its cluster, got {options.nodes}"
        )
    if options.nodes > 1 and nodes != sorted(nodes):
        raise InputError(
            "--nodes: the stages of each machine must follow each other, and this plan goes "
            f"through the machines in the order {', '.join(map(str, nodes))}"
        )
    if not 0 <= options.node_rank < options.nodes:
        raise InputError(f"--node-rank: expected 0 to {options.nodes - 1}, got {options.node_rank}")


def _check_devices(job: Job) -> None:
    stages, devices = job.saved.plan.stages, stage_devices(job)
    if len(devices) != len(stages):
        raise InputError(f"--devices: expected {len(stages)}, one a stage, got {len(devices)}")
    for number in local_stages(job):
        _check_device(number, stages[number].device, devices[number])
    gpus = [devices[number] for number in local_stages(job) if devices[number] != "cpu"]
    if len(set(gpus)) < len(gpus):
        raise InputError(f"--devices: expected a GPU of its own for each stage, got {gpus}")


def _check_device(number: int, name: str, device: str) -> None:
    wanted = device_named(device, "--devices")
    if wanted.type == "cuda" and (wanted.index or 0) >= torch.cuda.device_count():
        raise InputError(
            f"stage {number} on {name} needs {device}, this machine has "
            f"{torch.cuda.device_count()} GPUs that PyTorch can use; "
            "--devices cpu,... runs stages on processor cores"
        )

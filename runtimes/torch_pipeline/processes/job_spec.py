"""What does every process of a pipeline need to know of a job?"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from llmpq_sim.core.fields import Fields, check_header
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.io.files import parse_json, read_text, write_json
from llmpq_sim.io.serving import settings_from_fields, settings_to_content
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from runtimes.base import Sampling, TokenRequest
from runtimes.torch_pipeline.processes.worker_files import LARGEST_BYTES

SCHEMA = "llmpq/job"
VERSION = 1
FILE_NAME = "job.json"


@dataclass(frozen=True)
class StageSpec:
    """One stage of the pipeline.

    Attributes:
        name: of its device in the plan.
        first_layer: index of its first layer.
        formats: of its layers.
        device: where PyTorch computes it, such as ``cpu`` or ``cuda:0``.
        cores: processor cores it may use; none leaves them to the system.
        dense_from_tokens: by format, the tokens from which weights are decoded and multiplied
            densely.
        is_dense_only: whether it does so always.
        memory_limit_bytes: what it may take, or None for all there is.
    """

    name: str
    first_layer: int
    formats: tuple[str, ...]
    device: str
    cores: tuple[int, ...]
    dense_from_tokens: dict[str, int]
    is_dense_only: bool
    memory_limit_bytes: int | None


@dataclass(frozen=True)
class JobSpec:
    """A job as the processes of its stages read it.

    Attributes:
        model_dir: folder of the model.
        dtype: of what is not quantized.
        stages: in order.
        batch: requests of a static batch.
        micro_batching: how a batch is cut.
        settings: of continuous batching, or None for the static policy.
        cache_rows, cache_context_tokens: of every stage's KV cache.
        requests: what is to be served.
        weight_cache: folder for quantized weights, or None.
        records_steps: whether GPUs repeat decode steps that were recorded.
        quantizers: how codes are chosen, by format; a format that is missing is rounded to nearest.
        batch_invariant: whether no token depends on what is computed beside it.
    """

    model_dir: Path
    dtype: str
    stages: tuple[StageSpec, ...]
    batch: int
    micro_batching: MicroBatching
    settings: ContinuousSettings | None
    cache_rows: int
    cache_context_tokens: int
    requests: tuple[TokenRequest, ...]
    weight_cache: Path | None
    records_steps: bool = False
    quantizers: dict[str, str] = field(default_factory=dict)
    batch_invariant: bool = False


def write_job(folder: Path, job: JobSpec) -> None:
    """Write a job into a folder."""
    write_json(folder / FILE_NAME, job_to_content(job))


def read_job(folder: Path) -> JobSpec:
    """Return the job in a folder.

    Raises:
        InputError: it cannot be read.
    """
    content = parse_json(read_text(folder / FILE_NAME, LARGEST_BYTES), FILE_NAME)
    return job_from_fields(Fields(content, FILE_NAME))


def job_to_content(job: JobSpec) -> dict[str, Any]:
    """Return a job as plain data."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "model_dir": str(job.model_dir),
        "dtype": job.dtype,
        "stages": [asdict(stage) for stage in job.stages],
        "batch": job.batch,
        "micro_batching": asdict(job.micro_batching),
        "settings": None if job.settings is None else settings_to_content(job.settings),
        "cache_rows": job.cache_rows,
        "cache_context_tokens": job.cache_context_tokens,
        "requests": [_request_to_content(request) for request in job.requests],
        "weight_cache": None if job.weight_cache is None else str(job.weight_cache),
        "records_steps": job.records_steps,
        "quantizers": job.quantizers,
        "batch_invariant": job.batch_invariant,
    }


def _request_to_content(request: TokenRequest) -> dict[str, Any]:
    """Return a request as plain data, its seed as text: one of 63 bits is no number for others."""
    content = asdict(request)
    content["sampling"]["seed"] = str(request.sampling.seed)
    return content


def job_from_fields(fields: Fields) -> JobSpec:
    """Return the job that ``job_to_content`` wrote.

    Raises:
        InputError: a value is missing, unknown or cannot be.
    """
    with fields:
        check_header(fields, SCHEMA, VERSION)
        continuous = fields.has("settings")
        return JobSpec(
            model_dir=Path(fields.text("model_dir")),
            dtype=fields.text("dtype"),
            stages=tuple(_stage(each) for each in fields.each("stages")),
            batch=fields.integer("batch"),
            micro_batching=_micro_batching(fields.fields("micro_batching")),
            settings=settings_from_fields(fields.fields("settings")) if continuous else None,
            cache_rows=fields.integer("cache_rows"),
            cache_context_tokens=fields.integer("cache_context_tokens"),
            requests=tuple(_request(each) for each in fields.each("requests")),
            weight_cache=Path(fields.text("weight_cache")) if fields.has("weight_cache") else None,
            records_steps=fields.flag("records_steps"),
            quantizers=_quantizers(fields.fields("quantizers")),
            batch_invariant=fields.flag("batch_invariant"),
        )


def _stage(fields: Fields) -> StageSpec:
    with fields:
        limited = fields.has("memory_limit_bytes")
        dense = fields.fields("dense_from_tokens")
        return StageSpec(
            name=fields.text("name"),
            first_layer=fields.integer("first_layer", least=0),
            formats=fields.texts("formats"),
            device=fields.text("device"),
            cores=tuple(int(core) for core in fields.numbers("cores")),
            dense_from_tokens={name: dense.integer(name, least=0) for name in dense.names()},
            is_dense_only=fields.flag("is_dense_only"),
            memory_limit_bytes=fields.integer("memory_limit_bytes") if limited else None,
        )


def _quantizers(fields: Fields) -> dict[str, str]:
    with fields:
        return {name: fields.text(name) for name in fields.names()}


def _micro_batching(fields: Fields) -> MicroBatching:
    with fields:
        sizes = (fields.integer(name) for name in ("prefill", "decode", "groups_in_flight"))
        return MicroBatching(*sizes)


def _request(fields: Fields) -> TokenRequest:
    with fields:
        return TokenRequest(
            name=str(fields.value("name")),
            prompt=tuple(fields.items("prompt")),
            output_tokens=fields.integer("output_tokens"),
            sampling=_sampling(fields.fields("sampling")),
            stop_tokens=tuple(fields.items("stop_tokens")),
            arrival_s=fields.number("arrival_s", positive=False),
        )


def _sampling(fields: Fields) -> Sampling:
    with fields:
        return Sampling(
            temperature=fields.number("temperature", positive=False),
            top_k=fields.integer("top_k", least=0),
            top_p=fields.number("top_p"),
            seed=int(fields.text("seed")),
        )

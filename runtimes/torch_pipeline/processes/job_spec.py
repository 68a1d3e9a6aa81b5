"""Job file that every process of a pipeline reads."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, ClassVar

from llmpq_sim.core.fields import Fields
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.core.records import Codec, Header, Natural, from_dict, to_dict
from llmpq_sim.io.files import parse_json, read_text, write_json
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from runtimes.base import TokenRequest
from runtimes.torch_pipeline.processes.worker_files import LARGEST_BYTES, PRIVATE_MODE

FILE_NAME = "job.json"


Folder = Annotated[Path, Codec(lambda fields, key: Path(fields.text(key)), str)]


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
    first_layer: Natural
    formats: tuple[str, ...]
    device: str
    cores: tuple[Natural, ...]
    dense_from_tokens: dict[str, Natural]
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
        uses_cuda_graphs: whether GPUs repeat decode steps that were recorded.
        quantizers: how codes are chosen, by format; a format that is missing is rounded to nearest.
        batch_invariant: whether no token depends on what is computed beside it.
        concurrency: requests in flight of a closed loop, or None.
    """

    header: ClassVar = Header("llmpq/job", 1)

    model_dir: Folder
    dtype: str
    stages: tuple[StageSpec, ...]
    batch: int
    micro_batching: MicroBatching
    settings: ContinuousSettings | None
    cache_rows: int
    cache_context_tokens: int
    requests: tuple[TokenRequest, ...]
    weight_cache: Folder | None
    uses_cuda_graphs: bool = False
    quantizers: dict[str, str] = field(default_factory=dict)
    batch_invariant: bool = False
    concurrency: int | None = None


def write_job(folder: Path, job: JobSpec) -> None:
    """Write a job into a folder."""
    write_json(folder / FILE_NAME, to_dict(job))
    (folder / FILE_NAME).chmod(PRIVATE_MODE)


def read_job(folder: Path) -> JobSpec:
    """Return the job in a folder.

    Raises:
        InputError: it cannot be read.
    """
    content = parse_json(read_text(folder / FILE_NAME, LARGEST_BYTES), FILE_NAME)
    return from_dict(JobSpec, Fields(content, FILE_NAME))

"""Laws of the torch runtime on a GPU; skipped where PyTorch has none."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from runtimes.base import Job, Runtime, RuntimeOptions, load_runtime
from runtimes.testing import REQUESTS, RuntimeContract, executed, saved_plan
from runtimes.torch_pipeline.engine.cache_shapes import CacheShape
from runtimes.torch_pipeline.engine.cuda_graphs import CudaRecorder, Recorder
from runtimes.torch_pipeline.weights.linear import KernelChoice, linear_from_stored
from runtimes.torch_pipeline.weights.quantizers import dequantize, quantize
from tests.runtimes.linears_of_tests import fused_name, stored_tensors
from tests.runtimes.models import CONFIGS, LAYERS, generated, save_model
from tests.runtimes.single_process import continuous, load_stages, run, static, token_lists
from tests.runtimes.test_token_laws import LENGTHS, TOKENS, prompts_of, requests_of

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch finds no GPU")

GPU = torch.device("cuda:0")


class TestTorchRuntimeOnGpuAndCpu(RuntimeContract):
    """A GPU and a processor core in one pipeline."""

    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> Runtime:
        return load_runtime("torch")

    @pytest.fixture(scope="class")
    @classmethod
    def job(cls, folder: Path) -> Job:
        saved = saved_plan(folder, [("int8",), ("bf16", "int4", "int3")], prompt_tokens=16)
        return Job(saved, REQUESTS, folder, options=RuntimeOptions(devices=("cpu", "cuda:0")))


@pytest.mark.parametrize("devices", [("cuda:0",), ("cuda:0", "cpu")])
@pytest.mark.parametrize("is_eager", [False, True])
def test_processes_on_gpus_give_the_tokens_of_generate(
    devices: tuple[str, ...], is_eager: bool, tmp_path: Path
) -> None:
    folder = save_model("llama", tmp_path)
    prompts = prompts_of((5, 11, 3, 8))
    shards = [("bf16",) * LAYERS] if len(devices) == 1 else [("bf16",), ("bf16",) * (LAYERS - 1)]
    options = RuntimeOptions(dtype="fp32", devices=devices, uses_cuda_graphs=not is_eager)
    saved = saved_plan(folder, shards, output_tokens=(TOKENS,) * 4)
    job = Job(saved, tuple(requests_of(prompts)), folder, options=options)
    _, served = executed(load_runtime("torch"), job)
    tokens = [list(one.tokens) for one in sorted(served, key=lambda one: one.request)]
    assert tokens == generated(folder, prompts, TOKENS)


@pytest.mark.parametrize("recorded", [False, True], ids=["launched", "recorded"])
@pytest.mark.parametrize("name", CONFIGS)
def test_tokens_are_those_of_generate(name: str, recorded: bool, tmp_path: Path) -> None:
    folder = save_model(name, tmp_path)
    expected = generated(folder, prompts_of(LENGTHS), TOKENS)
    requests = requests_of(prompts_of(LENGTHS))
    recorder: Recorder | None = CudaRecorder() if recorded else None
    shards = [("bf16",), ("bf16",) * (LAYERS - 1)]
    stages = load_stages(folder, shards, CacheShape(5, 24), device=GPU, recorder=recorder)
    for schedule in (static(requests, 5, 2, 3, 2), continuous(requests, 6, 4)):
        served, _ = run(stages, schedule, requests)
        assert token_lists(served) == expected


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
def test_recorded_steps_of_quantized_layers_give_the_same_tokens(
    dtype: torch.dtype, tmp_path: Path
) -> None:
    folder = save_model("llama", tmp_path)
    requests = requests_of(prompts_of(LENGTHS))
    shards: list[tuple[str, ...]] = [("int8", "bf16"), ("int4", "int3")]
    tokens = []
    for recorder in (None, CudaRecorder()):
        cache = CacheShape(5, 24)
        stages = load_stages(folder, shards, cache, dtype=dtype, device=GPU, recorder=recorder)
        served, _ = run(stages, static(requests, 5, 2, 5, 1), requests)
        tokens.append(token_lists(served))
    same = [a == b for a, b in zip(*map(flat, tokens), strict=True)]
    assert sum(same) / len(same) > 0.9  # a mask of more tokens may round otherwise


def flat(tokens: list[list[int]]) -> list[int]:
    return [token for one in tokens for token in one]


@pytest.mark.parametrize("tokens", [1, 5, 100])
@pytest.mark.parametrize("format_name", ["int8", "int4", "int3", "bf16"])
def test_products_are_those_of_the_codes(format_name: str, tokens: int) -> None:
    torch.manual_seed(tokens)
    weight = torch.randn(256, 384)
    stored = quantize(weight, format_name, torch.bfloat16)
    numbers = dequantize(stored, format_name, 256, 384).double()
    inputs = torch.randn(tokens, 384).bfloat16()
    expected = inputs.double() @ numbers.t()
    for choice in (KernelChoice(), KernelChoice.dense_only()):
        linear = linear_from_stored(
            stored, (256, 384), None, format_name, GPU, torch.bfloat16, choice
        )
        found = linear(inputs.to(GPU)).cpu().double()
        assert (found - expected).norm() / expected.norm() < 0.01
        again = stored_tensors(linear)
        assert all(torch.equal(again[name].cpu(), stored[name]) for name in stored)


def test_fused_kernels_of_recent_gpus_work() -> None:
    if torch.cuda.get_device_capability(GPU) < (8, 0):
        pytest.skip("these kernels need capability 8.0")
    assert fused_name("int4", GPU) == "aten::_weight_int4pack_mm"
    assert fused_name("int8", GPU) == "aten::_weight_int8pack_mm"


def test_memory_is_limited_on_a_gpu(tmp_path: Path) -> None:
    folder = save_model("llama", tmp_path)
    saved = saved_plan(folder, [("bf16",) * LAYERS], memory_bytes=2**30)
    options = RuntimeOptions(devices=("cuda:0",), enforces_memory=True)
    requests = tuple(requests_of(prompts_of((5, 6))))
    job = Job(saved, tuple(replace(one, output_tokens=6) for one in requests), folder)
    execution, _ = executed(load_runtime("torch"), replace(job, options=options))
    assert execution.stage_peak_bytes[0] > 0

"""Memory of loading: stored weights, one layer at 16 bits, and a stated constant."""

import json
import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file
from transformers import LlamaConfig

from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.memory import ends_bytes, layer_weight_bytes
from llmpq_sim.core.units import MIB
from llmpq_sim.io.models import load_model

ROOT = Path(__file__).resolve().parents[2]
LAYERS = 8
HIDDEN, WIDE, VOCABULARY = 768, 2048, 1000

CONSTANT_BYTES = 20 * MIB
"""Beside weights: what quantizing a part of a matrix takes (8 MB), what the allocator keeps."""

pytestmark = pytest.mark.skipif(
    not hasattr(psutil.Process().memory_info(), "shared"),
    reason="the system does not say what memory is the process's own",
)

MEASURING = """
import json, sys
from pathlib import Path
import torch
from runtimes.torch_pipeline.engine.architecture import Shard
from runtimes.torch_pipeline.processes.host_memory import PeakMemory, own_bytes
from runtimes.torch_pipeline.weights.linear import KernelChoice
from runtimes.torch_pipeline.weights.loading import WeightSettings, release_freed_memory
from runtimes.torch_pipeline.engine.cache_shapes import CacheShape
from runtimes.torch_pipeline.engine.stage import load_stage

cpu, folder = torch.device("cpu"), Path(sys.argv[1])

def load(format_name, layers, cache_dir=None):
    settings = WeightSettings(
        (format_name,) * layers, torch.bfloat16, cpu, KernelChoice(), cache_dir
    )
    return load_stage(folder, Shard(0, layers, True, True), settings, CacheShape(1, 8))

load("int4", 1)  # whatever is set up at first use
for format_name in ("int3", "int4", "int8", "bf16"):
    for cache_dir in (None, folder / "cache") if format_name == "int8" else (None,):
        release_freed_memory()
        peak, before = PeakMemory(cpu, interval_s=0.0005), own_bytes()
        peak.start()
        stage = load(format_name, 8, cache_dir)
        figures = [peak.stop() - before, own_bytes() - before]
        print(json.dumps([format_name, cache_dir is not None, *figures]))
        del stage
"""


def save_large(folder: Path) -> Path:
    """Save a Llama whose layers take 14 MB each at 16 bits, without initializing a model."""
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=WIDE,
        num_hidden_layers=LAYERS,
        num_attention_heads=12,
        architectures=["LlamaForCausalLM"],
    )
    config.save_pretrained(folder)
    square, up, down = (HIDDEN, HIDDEN), (WIDE, HIDDEN), (HIDDEN, WIDE)
    shapes = dict.fromkeys((f"self_attn.{name}_proj" for name in "qkvo"), square)
    shapes |= {"mlp.gate_proj": up, "mlp.up_proj": up, "mlp.down_proj": down}
    tensors = {
        f"model.layers.{layer}.{name}.weight": torch.randn(shape, dtype=torch.bfloat16)
        for layer in range(LAYERS)
        for name, shape in shapes.items()
    }
    for layer in range(LAYERS):
        for name in ("input_layernorm", "post_attention_layernorm"):
            tensors[f"model.layers.{layer}.{name}.weight"] = torch.ones(HIDDEN)
    tensors["model.norm.weight"] = torch.ones(HIDDEN)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        tensors[name] = torch.randn(VOCABULARY, HIDDEN, dtype=torch.bfloat16)
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    return folder


@pytest.fixture(scope="module")
def figures(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, bool], tuple[int, int]]:
    """Return the bytes while loading and afterwards, by format and whether they were cached."""
    folder = save_large(tmp_path_factory.mktemp("large"))
    measured = subprocess.run(
        [sys.executable, "-c", MEASURING, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [json.loads(line) for line in measured.stdout.splitlines()]
    model = load_model(str(folder))
    plan = {
        name: LAYERS * layer_weight_bytes(model.only_kind, FORMATS[name])
        + ends_bytes(model, True, True)
        for name in ("int3", "int4", "int8", "bf16")
    }
    return {
        (name, cached): (peak - plan[name], after - plan[name])
        for name, cached, peak, after in lines
    }


def layer_bytes() -> int:
    return 2 * (4 * HIDDEN * HIDDEN + 3 * HIDDEN * WIDE)


@pytest.mark.parametrize("name", ["int3", "int4", "int8", "bf16"])
def test_loading_takes_stored_weights_one_layer_and_a_constant(
    figures: dict[tuple[str, bool], tuple[int, int]], name: str
) -> None:
    assert figures[name, False][0] <= layer_bytes() + CONSTANT_BYTES


@pytest.mark.parametrize("name", ["int3", "int4", "int8", "bf16"])
def test_after_loading_only_stored_weights_and_a_constant_are_left(
    figures: dict[tuple[str, bool], tuple[int, int]], name: str
) -> None:
    assert -MIB <= figures[name, False][1] <= CONSTANT_BYTES // 3


def test_writing_the_cache_keeps_to_the_same_law(
    figures: dict[tuple[str, bool], tuple[int, int]],
) -> None:
    peak, after = figures["int8", True]
    assert peak <= layer_bytes() + CONSTANT_BYTES
    assert after <= CONSTANT_BYTES // 3

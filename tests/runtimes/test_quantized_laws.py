"""Laws of quantized layers: tokens of one process in any cut, and nothing kept but codes."""

import copy
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.memory import ends_bytes, layer_weight_bytes
from llmpq_sim.io.models import load_model
from runtimes.torch_pipeline.engine.cache_shapes import CacheShape
from runtimes.torch_pipeline.engine.sequences import Schedule
from runtimes.torch_pipeline.engine.stage import Stage
from runtimes.torch_pipeline.weights.linear import KernelChoice, StoredLinear
from tests.runtimes.models import CONFIGS, LAYERS, save_config
from tests.runtimes.processors import PROCESSORS, bfloat16_instructions
from tests.runtimes.single_process import continuous, load_stages, run, static, token_lists
from tests.runtimes.test_token_laws import prompts_of, requests_of

processor = pytest.fixture(autouse=True, params=PROCESSORS)(bfloat16_instructions)

FORMATS_OF_LAYERS = ("int8", "int3", "bf16", "int4")
CUTS = [(4,), (1, 3), (2, 2), (1, 2, 1)]
SWITCHING = KernelChoice({"int3": 4, "int4": 5, "int8": 7, "bf16": 3})
"""So low that decode steps take fused kernels and prefill steps dense ones."""

CHOICES = {"switching": SWITCHING, "dense": KernelChoice.dense_only()}
NAMES = ("llama", "llama-tied", "opt", "bloom", "mixtral")
assert len(FORMATS_OF_LAYERS) == LAYERS
REQUESTS = requests_of(prompts_of((5, 11, 3, 8, 5)), 8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("quantized")
    return {name: save_config(wide(name), root / name) for name in NAMES}


def wide(name: str) -> Any:
    """Return a tiny model whose rows are whole groups, so that nothing stored is padded."""
    config = copy.deepcopy(CONFIGS[name])
    config.hidden_size = 128
    for size in ("intermediate_size", "ffn_dim"):
        if hasattr(config, size):
            setattr(config, size, 256)
    if hasattr(config, "head_dim"):
        config.head_dim = 32
    if name == "opt":
        config.word_embed_proj_dim = 128
    return config


def stages_of(folder: Path, layers: tuple[int, ...], choice: KernelChoice) -> list[Stage]:
    formats = iter(FORMATS_OF_LAYERS)
    shards = [tuple(next(formats) for _ in range(count)) for count in layers]
    return load_stages(folder, shards, CacheShape(5, 24), dtype=torch.bfloat16, choice=choice)


def schedules() -> list[Schedule]:
    return [
        static(REQUESTS, 5, 2, 3, 2),
        static(REQUESTS, 3, 3, 1, 2),
        continuous(REQUESTS, 6, 4),
        continuous(REQUESTS, 24, 5, chunked=False),
    ]


@pytest.mark.parametrize(
    ("name", "choice"), [*((name, "switching") for name in NAMES), ("llama", "dense")]
)
def test_tokens_are_those_of_one_process(folders: dict[str, Path], name: str, choice: str) -> None:
    tokens = []
    for layers in (CUTS[0], CUTS[1], CUTS[3]):
        stages = stages_of(folders[name], layers, CHOICES[choice])
        # one step at a time, so that continuous batching forms the same batches for all
        served = [run(stages, each, REQUESTS, in_flight=1)[0] for each in schedules()]
        tokens.append([token_lists(one) for one in served])
    assert all(each == tokens[0] for each in tokens)
    assert len({tuple(output) for lists in tokens[0] for output in lists}) > 2


def test_kernels_switch_within_these_runs(folders: dict[str, Path], processor: bool) -> None:
    used: set[tuple[str, bool]] = set()
    stage = stages_of(folders["llama"], (4,), SWITCHING)[0]
    linears = [one for one in modules_of(stage) if isinstance(one, StoredLinear)]
    assert {one.format_name for one in linears} == set(FORMATS_OF_LAYERS)
    for one in linears:
        one.register_forward_pre_hook(
            lambda module, inputs: used.add(
                (module.format_name, module.is_dense(inputs[0].numel() // module.in_features))
            )
        )
    run([stage], static(REQUESTS, 5, 2, 3, 2), REQUESTS)
    both = {(name, dense) for name in FORMATS_OF_LAYERS for dense in (False, True)}
    lacking = {("int3", False)}  # int3 has no fused kernel
    if processor:
        lacking.add(("bf16", True))  # held as it is multiplied
    assert used == both - lacking


# ---- nothing else is kept


def modules_of(stage: Stage) -> list[torch.nn.Module]:
    return list(stage._model.modules())


def stored_bytes(stage: Stage) -> int:
    """Return the bytes of all tensors that a stage's modules can reach, shared ones once.

    Attributes that are no parameters or buffers count as well, so that no copy can hide.
    """
    tensors: list[torch.Tensor] = []
    for module in modules_of(stage):
        tensors += [*module._parameters.values(), *module._buffers.values()]
        tensors += [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
        shared = vars(module).get("_shared")
        tensors += (
            [v for v in vars(shared).values() if isinstance(v, torch.Tensor)] if shared else []
        )
    storages = {
        tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes()
        for tensor in tensors
        if tensor is not None
    }
    return sum(storages.values())


def others_bytes(stage: Stage) -> int:
    """Return the bytes of what no layer has and plans leave out: norms at the ends, frequencies."""
    ends = ("norm", "final_layer_norm", "ln_f", "word_embeddings_layernorm", "rotary_emb")
    decoder = next(one for one in modules_of(stage) if hasattr(one, "layers") or hasattr(one, "h"))
    parts = [getattr(decoder, name) for name in ends if hasattr(decoder, name)]
    return sum(tensor.nbytes for part in parts for tensor in (*part.parameters(), *part.buffers()))


@cache
def planned_bytes(folder: Path, layers: tuple[int, ...]) -> list[int]:
    model = load_model(str(folder))
    counted, first = [], 0
    for number, count in enumerate(layers):
        formats = FORMATS_OF_LAYERS[first : first + count]
        counted.append(
            sum(layer_weight_bytes(model.only_kind, FORMATS[name]) for name in formats)
            + ends_bytes(model, number == 0, number == len(layers) - 1)
        )
        first += count
    return counted


@pytest.mark.parametrize("layers", CUTS)
@pytest.mark.parametrize("name", NAMES)
def test_a_stage_holds_the_bytes_of_its_formats_and_no_other_copy(
    folders: dict[str, Path], name: str, layers: tuple[int, ...]
) -> None:
    stages = stages_of(folders[name], layers, SWITCHING)
    run(stages, static(REQUESTS, 5, 2, 3, 2), REQUESTS)  # what is kept from running counts, too
    for stage, planned in zip(stages, planned_bytes(folders[name], layers), strict=True):
        assert stored_bytes(stage) == planned + others_bytes(stage)

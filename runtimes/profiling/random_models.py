"""Models of real shape with random weights, on disk."""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.files import write_json
from runtimes.profiling.profiled_models import load_profiled
from runtimes.torch_pipeline.engine.architecture import Shard, ShardModel, shard_model
from runtimes.torch_pipeline.weights.loading import DTYPES

SPREAD = 0.02
"""Standard deviation of the weights, as architectures initialise theirs."""

INDEX = "model.safetensors.index.json"


def make_random_model(model: str, folder: Path, seed: int) -> Path:
    """Write a model's config and random weights in Hugging Face's layout, a file for each layer.

    The same seed gives the same bytes. A folder that has an index already is left as it is.

    Args:
        model: a bundled model or a folder with a config.json.
        folder: where to; made where it is missing.
        seed: of the weights.

    Raises:
        InputError: there is no such model, or the folder cannot be written.
    """
    profiled = load_profiled(model)
    if (folder / INDEX).exists():
        return folder
    dtype = DTYPES[profiled.spec.dtype]
    whole = shard_model(profiled.config, Shard(0, profiled.spec.layers, True, True), dtype)
    generator = torch.Generator().manual_seed(seed)
    files: dict[str, str] = {}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for number, names in enumerate(_shards(whole)):
            shard = f"model-{number:05d}.safetensors"
            parameters = {name: whole.model.get_parameter(name) for name in names}
            tensors = {
                name: _drawn(tuple(parameter.shape), dtype, generator)
                for name, parameter in parameters.items()
            }
            save_file(tensors, folder / shard, {"format": "pt"})
            files |= dict.fromkeys(names, shard)
    except OSError as error:
        raise InputError(f"cannot write the model {folder}: {error.strerror}") from None
    config = {**profiled.config.to_dict(), "dtype": str(dtype).removeprefix("torch.")}
    write_json(folder / "config.json", json.loads(json.dumps(config, default=str)))
    write_json(folder / INDEX, {"metadata": {}, "weight_map": files})
    return folder


def _shards(whole: ShardModel) -> list[list[str]]:
    """Return names of tensors, those of the ends first, then those of each layer."""
    names = [name for name, _ in whole.model.named_parameters()]
    start = f"{whole.layers_name}."
    ends = [name for name in names if not name.startswith(start)]
    layers = [
        [name for name in names if name.startswith(f"{start}{number}.")]
        for number in range(len(whole.layers))
    ]
    return [ends, *layers]


def _drawn(shape: tuple[int, ...], dtype: torch.dtype, generator: torch.Generator) -> torch.Tensor:
    """Return random weights of a matrix, and ones for a vector, which scales what is normalised."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=dtype)
    return (torch.randn(shape, generator=generator) * SPREAD).to(dtype)

"""Tiny quantized checkpoints, packed by numpy as their methods' documents say, and what they mean.

Codes, zeros and scales are drawn, not made from weights: what a checkpoint means is then exact.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import LlamaConfig

from tests.runtimes.models import VOCABULARY, save_config

Arrays = dict[str, Any]
Packed = tuple[dict[str, Tensor], np.ndarray]
"""Tensors of a module by leaf, and its weights in float32."""

CONFIG = LlamaConfig(
    vocab_size=VOCABULARY, hidden_size=128, intermediate_size=256, num_hidden_layers=2,
    num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128,
)  # fmt: skip
"""Key and value projections have 64 rows, half a square."""


@dataclass(frozen=True)
class Method:
    """A way to publish a quantized model.

    Attributes:
        described: the ``quantization_config``.
        pack: draws a module of (rows, columns).
        format_name: in which plans have its layers.
    """

    described: dict[str, Any]
    pack: Callable[[np.random.Generator, int, int], Packed]
    format_name: str


def words(codes: np.ndarray) -> Tensor:
    """Pack codes (rows, columns) into int32 along columns, the first in the lowest bits."""
    grouped = codes.reshape(codes.shape[0], -1, 8).astype(np.uint32)
    packed = sum(grouped[:, :, place] << np.uint32(4 * place) for place in range(8))
    return torch.from_numpy(np.asarray(packed, np.uint32).view(np.int32).copy())


def awq_words(codes: np.ndarray) -> Tensor:
    """Pack as AutoAWQ's gemm does: half byte i holds column ORDER[i]."""
    order = [0, 2, 4, 6, 1, 3, 5, 7]
    grouped = codes.reshape(codes.shape[0], -1, 8)[:, :, order]
    return words(grouped.reshape(codes.shape))


def drawn(
    generator: np.random.Generator, rows: int, columns: int, group: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return codes (rows, columns), zeros and float16 scales (rows, groups), and the weights."""
    codes = generator.integers(0, 16, (rows, columns))
    zeros = generator.integers(1, 16, (rows, columns // group))
    scales = generator.uniform(0.02, 0.05, zeros.shape).astype(np.float16)
    spread = np.repeat(zeros, group, 1), np.repeat(scales, group, 1).astype(np.float32)
    return codes, zeros, scales, (codes - spread[0]).astype(np.float32) * spread[1]


def gptq(group: int, offset: int, *, with_order: bool) -> Callable[..., Packed]:
    def pack(generator: np.random.Generator, rows: int, columns: int) -> Packed:
        codes, zeros, scales, weight = drawn(generator, rows, columns, group)
        tensors = {
            "qweight": words(codes).t().contiguous(),  # along rows of the transposed matrix
            "qzeros": words((zeros - offset).T),
            "scales": torch.from_numpy(scales.T.copy()),
        }
        if with_order:
            tensors["g_idx"] = torch.arange(columns, dtype=torch.int32) // group
        return tensors, weight

    return pack


def awq(generator: np.random.Generator, rows: int, columns: int) -> Packed:
    codes, zeros, scales, weight = drawn(generator, rows, columns, 128)
    tensors = {
        "qweight": awq_words(codes.T),
        "qzeros": awq_words(zeros.T),
        "scales": torch.from_numpy(scales.T.copy()),
    }
    return tensors, weight


def pack_quantized(zeros_as: str) -> Callable[..., Packed]:
    def pack(generator: np.random.Generator, rows: int, columns: int) -> Packed:
        codes, zeros, scales, weight = drawn(generator, rows, columns, 128)
        if zeros_as == "none":
            spread = np.repeat(scales, 128, 1).astype(np.float32)
            weight = (codes - 8).astype(np.float32) * spread
        tensors = {
            "weight_packed": words(codes),
            "weight_scale": torch.from_numpy(scales),
            "weight_shape": torch.tensor([rows, columns]),
        }
        if zeros_as == "packed":
            tensors["weight_zero_point"] = words(zeros.T).t().contiguous()
        elif zeros_as == "plain":
            tensors["weight_zero_point"] = torch.from_numpy((zeros - 8).astype(np.int8))
        return tensors, weight

    return pack


def e4m3_table() -> np.ndarray:
    """Return the number of each byte, by the definition of E4M3; not a number at two."""
    table = []
    for byte in range(256):
        sign, exponent, fraction = 1 - 2 * (byte >> 7), byte >> 3 & 15, byte & 7
        size = fraction * 2.0**-9 if not exponent else (1 + fraction / 8) * 2.0 ** (exponent - 7)
        table.append(np.nan if byte & 127 == 127 else sign * size)
    return np.asarray(table, np.float32)


def float8(by: str, leaf: str = "weight_scale", dtype: torch.dtype = torch.float32) -> Any:
    def pack(generator: np.random.Generator, rows: int, columns: int) -> Packed:
        codes = generator.integers(0, 127, (rows, columns)) + 128 * generator.integers(
            0, 2, (rows, columns)
        )
        squares = (-(-rows // 128), -(-columns // 128))
        shape = {"tensor": (), "channel": (rows, 1), "block": squares}[by]
        scales = torch.from_numpy(np.asarray(generator.uniform(2e-3, 4e-3, shape), np.float32))
        scales = scales.to(dtype)
        spread = scales.float().numpy()
        if by == "block":
            spread = np.repeat(np.repeat(spread, 128, 0), 128, 1)[:rows, :columns]
        weight = torch.from_numpy(codes.astype(np.uint8)).view(torch.float8_e4m3fn)
        return {"weight": weight, leaf: scales}, e4m3_table()[codes] * spread

    return pack


def _groups(layout: str, **weights: Any) -> dict[str, Any]:
    group = {"targets": ["Linear"], "weights": weights, "input_activations": None}
    return {
        "quant_method": "compressed-tensors",
        "format": layout,
        "config_groups": {"group_0": group},
        "ignore": ["lm_head"],
    }


def _int4(**more: Any) -> dict[str, Any]:
    rest = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
    return _groups("pack-quantized", **rest, **more)


_GPTQ = {"quant_method": "gptq", "bits": 4, "group_size": 128, "sym": False, "desc_act": False}

METHODS = {
    "gptq": Method(_GPTQ, gptq(128, 1, with_order=True), "int4-g128"),
    "gptq-v2": Method(
        {**_GPTQ, "checkpoint_format": "gptq_v2"}, gptq(128, 0, with_order=False), "int4-g128"
    ),
    "gptq-g32": Method({**_GPTQ, "group_size": 32}, gptq(32, 1, with_order=True), "int4-g32"),
    "awq": Method(
        {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm",
         "zero_point": True}, awq, "int4-g128",
    ),
    "packed-symmetric": Method(_int4(symmetric=True), pack_quantized("none"), "int4-g128"),
    "packed-zeros": Method(_int4(symmetric=False), pack_quantized("packed"), "int4-g128"),
    "plain-zeros": Method(_int4(symmetric=False), pack_quantized("plain"), "int4-g128"),
    "fp8-tensor": Method(
        _groups("float-quantized", num_bits=8, type="float", strategy="tensor"),
        float8("tensor"), "fp8",
    ),
    "fp8-channel": Method(
        _groups("float-quantized", num_bits=8, type="float", strategy="channel"),
        float8("channel", dtype=torch.bfloat16), "fp8",
    ),
    "fp8-block": Method(
        {"quant_method": "fp8", "weight_block_size": [128, 128], "activation_scheme": "dynamic"},
        float8("block", "weight_scale_inv"), "fp8-block",
    ),
}  # fmt: skip


def publish(method: Method, folder: Path, seed: int = 0) -> tuple[Path, Path]:
    """Write a model, quantized, and beside it the same with 16-bit weights; return both folders."""
    plain = save_config(CONFIG, folder / "plain")
    tensors, generator = load_file(plain / "model.safetensors"), np.random.default_rng(seed)
    packed: dict[str, Tensor] = {}
    for name, tensor in sorted(tensors.items()):
        if not name.endswith("_proj.weight"):
            packed[name] = tensor
            continue
        parts, weight = method.pack(generator, *tensor.shape)
        module = name.removesuffix(".weight")
        packed |= {f"{module}.{leaf}": part.contiguous() for leaf, part in parts.items()}
        tensors[name] = torch.from_numpy(weight).float().contiguous()
    save_file(tensors, plain / "model.safetensors", {"format": "pt"})
    quantized = folder / "quantized"
    quantized.mkdir()
    save_file(packed, quantized / "model.safetensors", {"format": "pt"})
    describe(quantized, plain, quantization_config=method.described)
    return quantized, plain


def describe(folder: Path, plain: Path, **more: Any) -> Path:
    """Write the config.json of a plain folder with more keys; return the folder."""
    config = json.loads((plain / "config.json").read_text(encoding="utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, **more}), encoding="utf-8")
    return folder

"""Methods of published checkpoints: what their configs say, and which packing that is."""

from collections.abc import Callable, Collection, Mapping
from pathlib import Path

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, kind_of
from llmpq_sim.io.files import is_file, read_json
from runtimes.torch_pipeline.weights.published.packings import (
    Awq,
    Float8,
    Gptq,
    Packing,
    PackQuantized,
)

READABLE = (
    "llmpq deploy reads 4-bit GPTQ, AWQ (gemm) and compressed-tensors (pack-quantized) in groups "
    "of 128 or 32, and fp8 with a scale for a tensor, a row or 128 x 128 weights; give the model "
    "that it was made from"
)

INT4_GROUPS = (128, 32)
KEYS = ("quantization_config", "compression_config", "quantization")
"""Keys of config.json: transformers, compressed-tensors of old, and MLX."""

FILES = {
    "quantize_config.json": "gptq",
    "quant_config.json": "awq",
    "hf_quant_config.json": "modelopt",
}
"""Files of GPTQ of old, AWQ of old, and ModelOpt."""


def packing_of(folder: Path, names: Collection[str]) -> Packing | None:
    """Return how a model folder packs its matrices, or None where it stores them as they are.

    Args:
        folder: with a config.json.
        names: of all tensors of its checkpoint.

    Raises:
        InputError: it is quantized in a way that the runtime does not read, which is named; or the
            tensors of the method are not there.
    """
    described = _described(folder)
    if described is None:
        return None
    fields, method, where = described
    read = METHODS.get(method.lower())
    if read is None:
        raise _refusal(where, f"{kind_of(method)} of {_bits(fields)}")
    packing = read(fields, where, names)
    if not packing.modules(names):
        raise InputError(
            f"{where}: expected tensors of {method} named *.{packing.leaf}, found none in {folder}"
        )
    return packing


def _described(folder: Path) -> tuple[Fields, str, str] | None:
    """Return what says that a folder is quantized, the method, and where it stands."""
    config = folder / "config.json"
    if is_file(config):
        fields = Fields(read_json(config), str(config))
        for key in KEYS:
            if fields.has(key) and fields.value(key) != {}:
                own = fields.fields(key)
                default = "mlx" if key == "quantization" else "compressed-tensors"
                return own, own.text("quant_method", default), own.where
    for name, method in FILES.items():
        if is_file(folder / name):
            return Fields(read_json(folder / name), str(folder / name)), method, str(folder / name)
    return None


def _bits(fields: Fields) -> str:
    named = [fields.value(key) for key in ("bits", "w_bit", "num_bits") if fields.has(key)]
    return f"{kind_of(named[0])} bits" if named else "bits that it does not say"


def _refusal(where: str, found: str) -> InputError:
    return InputError(f"{where}: expected weights that can be read, got {found}; {READABLE}")


def _int4_format(method: str, fields: Fields, where: str, keys: tuple[str, str]) -> str:
    """Return the format of 4-bit integers by the keys of bits and group size."""
    bits, group = (fields.value(key) if fields.has(key) else None for key in keys)
    if bits != 4 or group not in INT4_GROUPS:
        raise _refusal(where, f"{method} of {bits} bits in groups of {group}")
    return f"int4-g{group}"


def _gptq(fields: Fields, where: str, names: Collection[str]) -> Packing:
    name = _int4_format("gptq", fields, where, ("bits", "group_size"))
    version = fields.text("checkpoint_format", "gptq")
    if version not in ("gptq", "gptq_v2"):
        raise _refusal(where, f"gptq of 4 bits in the layout {version!r}")
    return Gptq(name, where, int(version == "gptq"), any(each.endswith(".g_idx") for each in names))


def _awq(fields: Fields, where: str, _: Collection[str]) -> Packing:
    old = fields.has("w_bit")
    keys = ("w_bit", "q_group_size") if old else ("bits", "group_size")
    name = _int4_format("awq", fields, where, keys)
    version = fields.text("version", "gemm").lower()
    if version != "gemm" or not fields.flag("zero_point", True):
        points = "" if fields.flag("zero_point", True) else " without zero points"
        raise _refusal(where, f"awq of 4 bits in the layout {version!r}{points}")
    return Awq(name, where)


def _fp8(fields: Fields, where: str, names: Collection[str]) -> Packing:
    name = "fp8"
    if fields.has("weight_block_size"):
        block = fields.items("weight_block_size")
        if block != [128, 128]:
            raise _refusal(where, f"fp8 in blocks of {' x '.join(map(str, block))}")
        name = "fp8-block"
    return Float8(name, where, _scale_leaf(names))


def _scale_leaf(names: Collection[str]) -> str:
    inverse = any(name.endswith(".weight_scale_inv") for name in names)
    return "weight_scale_inv" if inverse else "weight_scale"


def _compressed_tensors(fields: Fields, where: str, names: Collection[str]) -> Packing:
    groups = fields.fields("config_groups") if fields.has("config_groups") else None
    listed = [] if groups is None else [groups.fields(name) for name in groups.names()]
    if len(listed) != 1:
        raise _refusal(where, f"compressed-tensors with {len(listed)} groups of formats")
    layout = fields.text("format", "")
    weights = listed[0].fields("weights")
    bits, kind = weights.integer("num_bits"), weights.text("type", "int")
    strategy, group = weights.text("strategy", ""), weights.value("group_size", None)
    if kind == "float" and bits == 8 and layout in ("float-quantized", "naive-quantized"):
        return _float8(weights, strategy, where, names)
    if layout == "pack-quantized" and (kind, bits) == ("int", 4) and group in INT4_GROUPS:
        symmetric = weights.flag("symmetric", True)
        has_order = any(name.endswith(".weight_g_idx") for name in names)
        return PackQuantized(f"int4-g{group}", where, symmetric, has_order)
    found = f"{kind} of {bits} bits by {strategy or 'tensor'}" + (f" of {group}" if group else "")
    raise _refusal(where, f"compressed-tensors {layout or 'of no layout'}: {found}")


def _float8(weights: Fields, strategy: str, where: str, names: Collection[str]) -> Packing:
    if strategy == "block":
        block = weights.items("block_structure", [])
        if block != [128, 128]:
            raise _refusal(where, f"fp8 in blocks of {' x '.join(map(str, block))}")
        return Float8("fp8-block", where, _scale_leaf(names))
    if strategy not in ("tensor", "channel"):
        raise _refusal(where, f"compressed-tensors fp8 by {strategy or 'nothing it says'}")
    return Float8("fp8", where, _scale_leaf(names))


def _modelopt(fields: Fields, where: str, names: Collection[str]) -> Packing:
    inner = fields.fields("quantization") if fields.has("quantization") else fields
    algorithm = inner.text("quant_algo", "mixed formats")
    if algorithm != "FP8":
        raise _refusal(where, f"modelopt {algorithm}")
    return Float8("fp8", where, _scale_leaf(names))


METHODS: Mapping[str, Callable[[Fields, str, Collection[str]], Packing]] = {
    "gptq": _gptq,
    "awq": _awq,
    "fp8": _fp8,
    "fbgemm_fp8": _fp8,
    "compressed-tensors": _compressed_tensors,
    "modelopt": _modelopt,
}
"""By ``quant_method``."""

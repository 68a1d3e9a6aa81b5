"""Weight formats as published checkpoints say them, wherever it stands.

Each method's description becomes rules: a format for matrices whose names match. Nothing is taken
for granted: what a method does not say, or says in words not known here, is refused by name.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, kind_of
from llmpq_sim.io.files import is_file, read_foreign_json

LONGEST_PATTERN = 500
"""Characters of a pattern of module names; real ones have below 200."""

EVERYTHING = "re:.*"


Matcher = Callable[[str], bool]
"""Tells whether it means a module, by its dotted name."""


@dataclass(frozen=True)
class StoredFormat:
    """A format as a checkpoint names it.

    Attributes:
        name: of the format here, empty where it is not known.
        described: method, bits and group, as messages say it.
    """

    name: str
    described: str


@dataclass(frozen=True)
class FormatRules:
    """Which matrices have which format.

    Attributes:
        source: where it was said, such as ``config.json.quantization_config``.
        formats: patterns of module names with the format of each; the first that matches counts.
        ignored: patterns of module names that stay at 16 bits.
    """

    source: str
    formats: tuple[tuple[str, StoredFormat], ...]
    ignored: tuple[str, ...] = ()

    def format_of(self, modules: Sequence[str]) -> StoredFormat | None:
        """Return the format of a matrix by the names it may have, None where it has 16 bits."""
        if any(map(self._keeps, modules)):
            return None
        return next((each for found, each in self._matchers if any(map(found, modules))), None)

    @cached_property
    def _keeps(self) -> Matcher:
        return any_of(self.ignored)

    @cached_property
    def _matchers(self) -> list[tuple[Matcher, StoredFormat]]:
        return [(any_of((pattern,)), each) for pattern, each in self.formats]


def any_of(patterns: Sequence[str]) -> Matcher:
    """Return what tells whether one of some patterns means a module.

    A pattern is a regular expression (``re:``), has stars, or is a part of a module's dotted name.
    """
    parts = {pattern for pattern in patterns if "*" not in pattern and not _is_regex(pattern)}
    expressions = [
        re.compile(pattern[3:] if _is_regex(pattern) else _of_stars(pattern))
        for pattern in patterns
        if pattern not in parts
    ]

    def means(module: str) -> bool:
        if any(expression.match(module) for expression in expressions):
            return True
        names = module.split(".")
        places = range(len(names) + 1)
        return bool(parts) and any(
            ".".join(names[first:stop]) in parts for first in places for stop in places[first + 1 :]
        )

    return means


def _is_regex(pattern: str) -> bool:
    return pattern.startswith("re:")


def _of_stars(pattern: str) -> str:
    """Return the expression of a pattern with stars, which may lie within a longer name."""
    return rf"(.*\.)?{'.*'.join(map(re.escape, pattern.split('*')))}(\..*)?$"


def _whole(name: str, described: str) -> tuple[tuple[str, StoredFormat], ...]:
    return ((EVERYTHING, StoredFormat(name, described)),)


def integer_format(bits: int, group: int | None, method: str) -> StoredFormat:
    """Return the format of integers of so many bits that share a scale by groups."""
    described = f"{method}, {bits} bits" + (f" in groups of {group}" if group else "")
    name = {(4, 128): "int4-g128", (4, 32): "int4-g32", (8, None): "int8"}.get((bits, group), "")
    return StoredFormat(name, described)


def _patterns(fields: Fields, *keys: str) -> tuple[str, ...]:
    """Return patterns of module names, checked to be usable."""
    found: list[str] = []
    for key in keys:
        for pattern in fields.texts(key, []):
            where = f"{fields.where}.{key}"
            if len(pattern) > LONGEST_PATTERN:
                raise InputError(f"{where}: expected patterns of {LONGEST_PATTERN} characters")
            if pattern.startswith("re:"):
                try:
                    re.compile(pattern[3:])
                except re.error as error:
                    raise InputError(f"{where}: no pattern: {error}, got {pattern!r}") from None
            found.append(pattern)
    return tuple(found)


def _gptq(fields: Fields) -> FormatRules:
    group = fields.signed("group_size") if fields.has("group_size") else -1
    stored = integer_format(fields.integer("bits"), int(group) if group > 0 else None, "gptq")
    kept = ("re:.*lm_head.*",) if not fields.flag("lm_head", False) else ()
    return FormatRules(fields.where, ((EVERYTHING, stored),), kept)


def _awq(fields: Fields) -> FormatRules:
    bits = fields.integer("w_bit" if fields.has("w_bit") else "bits", 4)
    group = fields.integer("q_group_size" if fields.has("q_group_size") else "group_size", 128)
    ignored = _patterns(fields, "modules_to_not_convert")
    return FormatRules(
        fields.where, ((EVERYTHING, integer_format(bits, group, "awq")),), (*ignored, "lm_head")
    )


def _fp8(fields: Fields) -> FormatRules:
    name, described = "fp8", "fp8"
    if fields.has("weight_block_size"):
        block = fields.items("weight_block_size")
        described = f"fp8 in blocks of {' x '.join(map(str, block))}"
        name = "fp8-block" if block == [128, 128] else ""
    ignored = _patterns(fields, "modules_to_not_convert", "ignored_layers")
    return FormatRules(fields.where, _whole(name, described), (*ignored, "lm_head"))


def _mxfp4(fields: Fields) -> FormatRules:
    ignored = _patterns(fields, "modules_to_not_convert")
    stored = StoredFormat("mxfp4", "mxfp4 in groups of 32")
    return FormatRules(fields.where, (("re:.*experts.*", stored),), ignored)


def _bitsandbytes(fields: Fields) -> FormatRules:
    if fields.flag("load_in_8bit", False):
        stored = StoredFormat("int8", "bitsandbytes, 8 bits")
    else:
        kind = fields.text("bnb_4bit_quant_type", "fp4")
        stored = StoredFormat("", f"bitsandbytes, 4 bits ({kind})")
    ignored = _patterns(fields, "llm_int8_skip_modules")
    return FormatRules(fields.where, ((EVERYTHING, stored),), (*ignored, "lm_head"))


def _auto_round(fields: Fields) -> FormatRules:
    stored = integer_format(fields.integer("bits"), fields.integer("group_size"), "auto-round")
    return FormatRules(fields.where, ((EVERYTHING, stored),), ("lm_head",))


def _compressed_tensors(fields: Fields) -> FormatRules:
    groups = fields.fields("config_groups") if fields.has("config_groups") else None
    if groups is None:
        raise InputError(f"{fields.where}.config_groups: expected groups, but they are missing")
    formats: list[tuple[str, StoredFormat]] = []
    for name in groups.names():
        group = groups.fields(name)
        stored = _of_group(group)
        targets = _patterns(group, "targets")
        formats += [(EVERYTHING if each == "Linear" else each, stored) for each in targets]
    return FormatRules(fields.where, tuple(formats), _patterns(fields, "ignore"))


def _of_group(group: Fields) -> StoredFormat:
    """Return the format of a group of compressed-tensors or ModelOpt."""
    weights = group.fields("weights")
    bits, kind = weights.integer("num_bits"), weights.text("type", "int")
    strategy = weights.text("strategy", "group" if weights.has("group_size") else "channel")
    size = weights.integer("group_size", 0, least=-1)
    block = weights.items("block_structure", [])
    activations = group.has("input_activations")
    described = f"{kind}{bits} by {strategy}" + (f" of {size}" if size > 0 else "")
    if kind == "float" and bits == 8:
        if strategy == "block":
            return StoredFormat("fp8-block" if block == [128, 128] else "", described)
        return StoredFormat(
            "w8a8-fp8" if activations and strategy == "channel" else "fp8", described
        )
    if kind == "float" and bits == 4:
        name = {16: "nvfp4", 32: "mxfp4"}.get(size, "")
        return StoredFormat(name, described)
    if kind == "int" and bits == 8 and size <= 0:
        return StoredFormat("w8a8-int8" if activations else "int8", described)
    return StoredFormat(
        integer_format(bits, size if size > 0 else None, "compressed-tensors").name, described
    )


ALGORITHMS: Mapping[str, StoredFormat] = {
    "FP8": StoredFormat("fp8", "fp8 by tensor"),
    "FP8_PER_CHANNEL_PER_TOKEN": StoredFormat("w8a8-fp8", "fp8 by channel"),
    "FP8_PB_WO": StoredFormat("fp8-block", "fp8 in blocks"),
    "FP8_PB_REAL": StoredFormat("fp8-block", "fp8 in blocks"),
    "NVFP4": StoredFormat("nvfp4", "nvfp4"),
    "W4A16_NVFP4": StoredFormat("nvfp4", "nvfp4"),
    "NVFP4_AWQ": StoredFormat("nvfp4", "nvfp4"),
    "MXFP4": StoredFormat("mxfp4", "mxfp4"),
    "W4A16_AWQ": StoredFormat("int4-g128", "awq, 4 bits in groups of 128"),
    "W8A16": StoredFormat("int8", "int8 by channel"),
    "W8A8_SQ_PER_CHANNEL": StoredFormat("w8a8-int8", "int8 by channel"),
}
"""ModelOpt's names of algorithms. Source: TensorRT Model Optimizer, ``modelopt/torch/export``."""


def _algorithm(name: str, where: str) -> StoredFormat:
    if name.upper() not in ALGORITHMS:
        raise InputError(
            f"{where}: expected one of {', '.join(ALGORITHMS)}, got {name!r}; a format that is not "
            "understood"
        )
    return ALGORITHMS[name.upper()]


def _modelopt(fields: Fields) -> FormatRules:
    ignored = _patterns(fields, "exclude_modules", "ignore")
    if fields.has("quantized_layers"):
        layers = fields.fields("quantized_layers")
        formats = tuple(
            (
                name,
                _algorithm(
                    layers.fields(name).text("quant_algo"), f"{layers.where}.{name}.quant_algo"
                ),
            )
            for name in layers.names()
        )
        return FormatRules(fields.where, formats, ignored)
    if not fields.has("quant_algo"):
        return _compressed_tensors(fields)
    stored = _algorithm(fields.text("quant_algo"), f"{fields.where}.quant_algo")
    return FormatRules(fields.where, ((EVERYTHING, stored),), ignored)


def _mlx(fields: Fields) -> FormatRules:
    bits, group = fields.integer("bits"), fields.integer("group_size", 64)
    stored = integer_format(bits, group, "mlx")
    content = fields.content()
    formats: list[tuple[str, StoredFormat]] = []
    ignored = [name for name, value in content.items() if value is False]
    for name, value in content.items():
        if isinstance(value, Mapping):
            own = fields.fields(name)
            formats.append(
                (
                    name,
                    integer_format(
                        own.integer("bits", bits), own.integer("group_size", group), "mlx"
                    ),
                )
            )
    return FormatRules(fields.where, (*formats, (EVERYTHING, stored)), tuple(ignored))


METHODS: Mapping[str, Callable[[Fields], FormatRules]] = {
    "auto-round": _auto_round,
    "awq": _awq,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": _compressed_tensors,
    "fbgemm_fp8": _fp8,
    "fp8": _fp8,
    "gptq": _gptq,
    "modelopt": _modelopt,
    "modelopt_fp4": _modelopt,
    "mxfp4": _mxfp4,
}
"""By ``quant_method``."""

KEYS = ("quantization_config", "compression_config", "quantization")
"""Keys of quantized checkpoints: transformers, compressed-tensors of old, and MLX."""

FILES: Mapping[str, Callable[[Fields], FormatRules]] = {
    "hf_quant_config.json": lambda fields: _modelopt(
        fields.fields("quantization") if fields.has("quantization") else fields
    ),
    "quantize_config.json": _gptq,
    "quant_config.json": _awq,
}
"""Files of quantized checkpoints: ModelOpt, GPTQ of old, and AWQ of old."""


def rules_of_config(fields: Fields) -> FormatRules | None:
    """Return what a config.json says of its weights, None where it says nothing.

    Raises:
        InputError: it names a method that is not known, or a value cannot be.
    """
    for key in KEYS:
        value = fields.value(key, None) if fields.has(key) else None
        if value in (None, {}):
            continue
        own = fields.fields(key)
        return _mlx(own) if key == "quantization" else _by_method(own)
    for key in ("text_config", "llm_config", "language_config"):
        if isinstance(fields.value(key, None) if fields.has(key) else None, Mapping):
            inner = rules_of_config(fields.fields(key))
            if inner is not None:
                return inner
    return None


def _by_method(fields: Fields) -> FormatRules:
    if not fields.has("quant_method") and fields.has("bits") and fields.has("group_size"):
        return _mlx(fields)  # which MLX writes a second time under this key
    default = "compressed-tensors" if fields.has("config_groups") else None
    method = fields.text("quant_method", *([default] if default else []))
    read = METHODS.get(method.lower())
    if read is None:
        raise InputError(
            f"{fields.where}.quant_method: expected one of {', '.join(METHODS)}, got "
            f"{kind_of(method)}; a method that is not understood"
        )
    return read(fields)


def rules_of_files(folder: Path) -> list[FormatRules]:
    """Return what files beside a config.json say of its weights.

    Raises:
        InputError: a file cannot be read, or says something that is not understood.
    """
    return [
        read(Fields(read_foreign_json(folder / name), name))
        for name, read in FILES.items()
        if is_file(folder / name)
    ]

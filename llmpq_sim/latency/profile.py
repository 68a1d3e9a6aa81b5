"""Latency profile: kernel times on one device with one set of kernels."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmpq_sim.core.cluster import Link
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, check_header
from llmpq_sim.core.formats import FORMATS, format_named
from llmpq_sim.core.machine import Machine, machine_from_fields, machine_to_content
from llmpq_sim.latency.models import AttentionModel, BoolArray, Factors, GemmModel, Overhead
from llmpq_sim.latency.serialization import (
    attention_from_fields,
    attention_to_content,
    factors_from_fields,
    factors_to_content,
    gemm_from_fields,
    gemm_to_content,
    link_from_fields,
    link_to_content,
    overhead_from_fields,
    overhead_to_content,
)
from llmpq_sim.latency.work import FloatArray, attention_sizes, gemm_sizes

SCHEMA = "llmpq/profile"
VERSION = 1
STATUSES = ("measured", "calibrated", "spec")
OVERHEADS = ("embedding_overhead", "head_overhead")


@dataclass(frozen=True)
class DeviceProfile:
    """Kernel times of a device, with how far they can be trusted.

    All times are positive and finite for positive sizes.

    Attributes:
        device: such as ``a100-sxm``.
        kernels: the kernel set, such as ``trtllm-1.0``: speed belongs to it as much as to the
            device.
        status: ``measured`` (kernels timed on this device), ``calibrated`` (few rows, or whole
            layers) or ``spec`` (data sheet only).
        calibration_rows: measurements the fit used; 0 for ``spec``.
        error_fraction: half width of the interval that a plan states for a layer's time.
        notes: what is assumed, in sentences.
        source: where the measurements or figures are from.
        gemms: model of a matrix product by weight format.
        aliases: formats that are priced as another one.
        prefill_attention, decode_attention: models of the attention kernels.
        elementwise_bytes_per_s: sustained rate of kernels that only move activations, or None
            where the other rows contain their time.
        layer_overhead_s: constant cost of each visit of a layer.
        no_gain_tokens: from so many tokens on a weight-only product takes at least as long as
            the fp16 one, or None where kernels are taken as they were timed. Weight-only kernels do
            the same arithmetic and decode besides; gains measured there come from 16-bit kernels
            that were timed at sustained, lower clocks.
        step_overhead_s: what a stage visit costs beside its layers, embedding and LM head.
        embedding_overhead, head_overhead: what embedding, and LM head with sampling, cost beside
            matrix products; None where they move bytes as fast as other activations.
        dense_from_tokens: by weight format, the tokens from which weights are decoded first and
            multiplied densely; a format that is absent has one kernel for all tokens.
        pipeline_factors: by weight format, how many times as long as alone a layer takes in a real
            pipeline, at growing numbers of tokens computed at once; between them linear in the
            logarithm of the tokens, beyond them constant.
        machine: what was profiled, or None where nothing says.
        link: between two processes of that machine, or None where it was not timed.
    """

    device: str
    kernels: str
    status: str
    calibration_rows: int
    error_fraction: float
    notes: tuple[str, ...]
    source: str
    gemms: dict[str, GemmModel]
    aliases: dict[str, str]
    prefill_attention: AttentionModel
    decode_attention: AttentionModel
    elementwise_bytes_per_s: float | None
    layer_overhead_s: float
    no_gain_tokens: float | None = None
    step_overhead_s: float = 0.0
    embedding_overhead: Overhead | None = None
    head_overhead: Overhead | None = None
    dense_from_tokens: dict[str, int] = field(default_factory=dict)
    pipeline_factors: dict[str, Factors] = field(default_factory=dict)
    machine: Machine | None = None
    link: Link | None = None

    @property
    def name(self) -> str:
        """Device and kernel set, as messages call the profile."""
        return f"{self.device}/{self.kernels}"

    @property
    def formats(self) -> tuple[str, ...]:
        """The weight formats it has times for, aliases last."""
        return (*self.gemms, *self.aliases)

    def gemm_s(
        self, format_name: str, tokens: Any, out_features: Any, in_features: Any
    ) -> FloatArray:
        """Return the time of ``y[tokens, out] = x[tokens, in] W[out, in]^T``.

        Raises:
            InputError: the profile has no measurements of the format.
        """
        model, sizes = self._gemm(format_name), gemm_sizes(tokens, out_features, in_features)
        time_s = model.time_s(sizes)
        if self.no_gain_tokens is None or not FORMATS[format_name].is_weight_only:
            return time_s
        limited = sizes.tokens >= self.no_gain_tokens
        if not limited.any():
            return time_s
        return np.where(limited, np.maximum(time_s, self.gemms["fp16"].time_s(sizes)), time_s)

    def beyond_range(
        self, format_name: str, tokens: Any, out_features: Any, in_features: Any
    ) -> BoolArray:
        """Return where a matrix product lies outside the profiled sizes.

        A ``spec`` or ``calibrated`` profile has no such box, so nothing is outside it: its
        status says how far to trust it.

        Raises:
            InputError: the profile has no measurements of the format.
        """
        return self._gemm(format_name).beyond(gemm_sizes(tokens, out_features, in_features))

    def prefill_attention_s(
        self, batch: Any, prompt_tokens: Any, heads: Any, kv_heads: Any, head_dim: Any
    ) -> FloatArray:
        """Return the time of causal attention over ``batch`` prompts."""
        sizes = attention_sizes(batch, prompt_tokens, heads, kv_heads, head_dim)
        return self.prefill_attention.time_s(sizes)

    def decode_attention_s(
        self, batch: Any, context_tokens: Any, heads: Any, kv_heads: Any, head_dim: Any
    ) -> FloatArray:
        """Return the time of one new token for each of ``batch`` sequences of this context."""
        sizes = attention_sizes(batch, context_tokens, heads, kv_heads, head_dim)
        return self.decode_attention.time_s(sizes)

    def elementwise_s(self, elements_bytes: Any) -> FloatArray:
        """Return the time to move these bytes through norms, rotary, residuals, activations."""
        moved = np.asarray(elements_bytes, np.float64)
        if self.elementwise_bytes_per_s is None:
            return np.zeros_like(moved)
        return moved / self.elementwise_bytes_per_s

    def pipeline_factor(self, format_name: str, tokens: Any) -> FloatArray:
        """Return how many times as long as alone a layer takes in a pipeline."""
        curve = self.pipeline_factors.get(self.aliases.get(format_name, format_name))
        counts = np.asarray(tokens, np.float64)
        if curve is None:
            return np.ones_like(counts)
        known, factors = zip(*curve, strict=True)
        return np.asarray(np.interp(np.log(counts), np.log(known), factors))

    def embedding_s(self, moved_bytes: Any) -> FloatArray:
        """Return the time to move these bytes through the embedding."""
        return self._moved_s(self.embedding_overhead, moved_bytes)

    def head_s(self, moved_bytes: Any) -> FloatArray:
        """Return the time of LM head and sampling beside the product, for these bytes of logits."""
        return self._moved_s(self.head_overhead, moved_bytes)

    def _moved_s(self, overhead: Overhead | None, moved_bytes: Any) -> FloatArray:
        if overhead is None:
            return self.elementwise_s(moved_bytes)
        return overhead.time_s(np.asarray(moved_bytes, np.float64))

    def _gemm(self, format_name: str) -> GemmModel:
        model = self.gemms.get(self.aliases.get(format_name, format_name))
        if model is None:
            raise InputError(
                f"profile {self.name} has no measurements of {format_name}; "
                f"it has {', '.join(self.formats)}"
            )
        return model


def profile_to_content(profile: DeviceProfile) -> dict[str, Any]:
    """Return the profile as JSON content that ``profile_from_fields`` reads back exactly."""
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "device": profile.device,
        "kernels": profile.kernels,
        "status": profile.status,
        "calibration_rows": profile.calibration_rows,
        "error_fraction": profile.error_fraction,
        "notes": list(profile.notes),
        "source": profile.source,
        "elementwise_bytes_per_s": profile.elementwise_bytes_per_s,
        "layer_overhead_s": profile.layer_overhead_s,
        "no_gain_tokens": profile.no_gain_tokens,
        "aliases": dict(profile.aliases),
        "prefill_attention": attention_to_content(profile.prefill_attention),
        "decode_attention": attention_to_content(profile.decode_attention),
        "gemms": {name: gemm_to_content(model) for name, model in profile.gemms.items()},
        **_measured_to_content(profile),
    }


def _measured_to_content(profile: DeviceProfile) -> dict[str, Any]:
    """Return what only profiles of own measurements have, without what is not known."""
    content: dict[str, Any] = {}
    if profile.step_overhead_s:
        content["step_overhead_s"] = profile.step_overhead_s
    for name in OVERHEADS:
        overhead: Overhead | None = getattr(profile, name)
        if overhead is not None:
            content[name] = overhead_to_content(overhead)
    if profile.dense_from_tokens:
        content["dense_from_tokens"] = dict(profile.dense_from_tokens)
    if profile.pipeline_factors:
        curves = profile.pipeline_factors.items()
        content["served_factors"] = {name: factors_to_content(factors) for name, factors in curves}
    if profile.machine is not None:
        content["machine"] = machine_to_content(profile.machine)
    if profile.link is not None:
        content["link"] = link_to_content(profile.link)
    return content


def profile_from_fields(fields: Fields) -> DeviceProfile:
    """Return the profile that a mapping describes.

    Raises:
        InputError: a field is missing, unknown or says something that cannot be.
    """
    with fields:
        check_header(fields, SCHEMA, VERSION)
        gemms = _gemms(fields.fields("gemms"))
        moves = fields.has("elementwise_bytes_per_s")
        bounded = fields.has("no_gain_tokens")
        return DeviceProfile(
            device=fields.text("device"),
            kernels=fields.text("kernels"),
            status=fields.choice("status", STATUSES),
            calibration_rows=fields.integer("calibration_rows", least=0),
            error_fraction=fields.number("error_fraction", positive=False),
            notes=fields.texts("notes"),
            source=fields.text("source"),
            gemms=gemms,
            aliases=_aliases(fields.fields("aliases"), gemms),
            prefill_attention=attention_from_fields(fields.fields("prefill_attention"), "prefill"),
            decode_attention=attention_from_fields(fields.fields("decode_attention"), "decode"),
            elementwise_bytes_per_s=fields.number("elementwise_bytes_per_s") if moves else None,
            layer_overhead_s=fields.number("layer_overhead_s", positive=False),
            no_gain_tokens=fields.number("no_gain_tokens") if bounded else None,
            step_overhead_s=fields.number("step_overhead_s", 0.0, positive=False),
            dense_from_tokens=_crossovers(fields),
            pipeline_factors=_pipeline_factors(fields),
            **_measured(fields),
        )


def _measured(fields: Fields) -> Any:
    """Return what a profile of own measurements may have; None where it is not known."""
    readers: dict[str, Callable[[Fields], Any]] = {
        **dict.fromkeys(OVERHEADS, overhead_from_fields),
        "machine": machine_from_fields,
        "link": link_from_fields,
    }
    return {
        name: read(fields.fields(name)) if fields.has(name) else None
        for name, read in readers.items()
    }


def _crossovers(fields: Fields) -> dict[str, int]:
    if not fields.has("dense_from_tokens"):
        return {}
    with fields.fields("dense_from_tokens") as crossovers:
        return {
            format_named(name, crossovers.where).name: crossovers.integer(name)
            for name in crossovers.names()
        }


def _pipeline_factors(fields: Fields) -> dict[str, Factors]:
    if not fields.has("served_factors"):
        return {}
    with fields.fields("served_factors") as curves:
        return {
            format_named(name, curves.where).name: factors_from_fields(curves, name)
            for name in curves.names()
        }


def _gemms(fields: Fields) -> dict[str, GemmModel]:
    names = fields.names()
    if "fp16" not in names:
        raise InputError(f"{fields.where}: expected fp16 among the weight formats")
    return {
        format_named(name, fields.where).name: gemm_from_fields(fields.fields(name))
        for name in names
    }


def _aliases(fields: Fields, gemms: dict[str, GemmModel]) -> dict[str, str]:
    for name in fields.names():
        if format_named(name, fields.where).name in gemms:
            raise InputError(f"{fields.where}.{name}: it has a model of its own in gemms")
    return {name: fields.choice(name, tuple(gemms)) for name in fields.names()}

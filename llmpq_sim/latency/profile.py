"""Latency profile: kernel times on one device with one set of kernels."""

from dataclasses import dataclass, field
from itertools import product
from typing import Annotated, Any, ClassVar

import numpy as np

from llmpq_sim.core.cluster import Link
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, one_of
from llmpq_sim.core.formats import FORMATS, format_named
from llmpq_sim.core.layers import Attention, Experts, LatentAttention, Recurrent
from llmpq_sim.core.machine import Machine
from llmpq_sim.core.records import (
    Codec,
    Header,
    Key,
    Natural,
    NotNegative,
    Place,
    from_dict,
    to_dict,
)
from llmpq_sim.latency.models import AttentionModel, Factors, GemmModel, Overhead
from llmpq_sim.latency.part_work import (
    ConvolutionSizes,
    ExpertsSizes,
    LatentSizes,
    ScanSizes,
    WindowSizes,
)
from llmpq_sim.latency.parts import (
    ALGORITHMS,
    PHASES,
    PartModel,
    convolution_sizes,
    experts_roofline,
    experts_sizes,
    indexed_latent_s,
    latent_sizes,
    mean_width,
    part_roofline,
    parts_codec,
    recurrent_name,
    scan_sizes,
    window_sizes,
    windowed_prefill_s,
)
from llmpq_sim.latency.work import BoolArray, FloatArray, attention_sizes, gemm_sizes

FormatName = Annotated[str, format_named]

PART_FIELDS = ("experts", "windows", "latent", "convolutions", "recurrent")
"""Fields of a profile that hold models of parts beyond dense layers."""


def _part_named(name: str, where: str) -> None:
    if name not in PART_FIELDS:
        raise InputError(f"{where}: expected some of {', '.join(PART_FIELDS)}, got {name!r}")


PartName = Annotated[str, _part_named]


def _aliases(fields: Fields, key: str) -> dict[str, str]:
    """Return which format is priced as which of those that have a model."""
    gemms = fields.fields("gemms").names()
    if "fp16" not in gemms:
        raise InputError(f"{fields.where}.gemms: expected fp16 among the weight formats")
    with fields.fields(key) as aliases:
        for name in aliases.names():
            if format_named(name, aliases.where).name in gemms:
                raise InputError(f"{aliases.where}.{name}: it has a model of its own in gemms")
        return {name: aliases.choice(name, tuple(gemms)) for name in aliases.names()}


def _attention(phase: str) -> Codec:
    return Codec(
        lambda fields, key: from_dict(AttentionModel, fields.fields(key), phase=phase), to_dict
    )


@dataclass(frozen=True, kw_only=True)
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
        layer_overhead_s: constant cost of each step of a layer.
        no_gain_tokens: from so many tokens on a weight-only product takes at least as long as
            the fp16 one, or None where kernels are taken as they were timed. Weight-only kernels do
            the same arithmetic and decode besides; gains measured there come from 16-bit kernels
            that were timed at sustained, lower clocks.
        step_overhead_s: what a stage step costs beside its layers, embedding and LM head.
        embedding_overhead, head_overhead: what embedding, and LM head with sampling, cost beside
            matrix products; None where they move bytes as fast as other activations.
        dense_from_tokens: by weight format, the tokens from which weights are decoded first and
            multiplied densely; a format that is absent has one kernel for all tokens.
        pipeline_factors: by weight format, how many times as long as alone a layer takes in a real
            pipeline, at growing numbers of tokens computed at once; between them linear in the
            logarithm of the tokens, beyond them constant.
        experts: models of routed experts, by weight format.
        windows: models of attention within a window, by phase.
        latent: models of latent attention, by phase.
        convolutions: models of the short convolution of recurrent mixers, by phase.
        recurrent: models of their recurrence, by algorithm and phase. What is absent among these
            five follows a roofline at the rates of dense products;
            ``llmpq_sim.latency.assumptions`` says so.
        part_notes: whose kernels those were, in sentences.
        part_error_fractions: 90th percentile of errors on unseen shapes, by the field that holds
            the models; on average over formats and phases.
        machine: what was profiled, or None where nothing says.
        link: between two processes of that machine, or None where it was not timed.
    """

    header: ClassVar = Header("llmpq/profile", 1)

    device: str
    kernels: str
    status: Annotated[str, one_of(("measured", "calibrated", "spec"))]
    calibration_rows: Natural
    error_fraction: NotNegative
    notes: tuple[str, ...]
    source: str
    elementwise_bytes_per_s: float | None
    layer_overhead_s: NotNegative
    no_gain_tokens: float | None = None
    aliases: Annotated[dict[str, str], Codec(_aliases, dict)]
    prefill_attention: Annotated[AttentionModel, _attention("prefill")]
    decode_attention: Annotated[AttentionModel, _attention("decode")]
    gemms: dict[FormatName, GemmModel]
    step_overhead_s: Annotated[NotNegative, Place.OPTIONAL] = 0.0
    embedding_overhead: Annotated[Overhead | None, Place.OPTIONAL] = None
    head_overhead: Annotated[Overhead | None, Place.OPTIONAL] = None
    dense_from_tokens: Annotated[dict[FormatName, int], Place.OPTIONAL] = field(
        default_factory=dict
    )
    pipeline_factors: Annotated[
        dict[FormatName, Factors], Key("served_factors"), Place.OPTIONAL
    ] = field(default_factory=dict)
    experts: Annotated[dict[str, PartModel], parts_codec(ExpertsSizes, FORMATS), Place.OPTIONAL] = (
        field(default_factory=dict)
    )
    windows: Annotated[dict[str, PartModel], parts_codec(WindowSizes, PHASES), Place.OPTIONAL] = (
        field(default_factory=dict)
    )
    latent: Annotated[dict[str, PartModel], parts_codec(LatentSizes, PHASES), Place.OPTIONAL] = (
        field(default_factory=dict)
    )
    convolutions: Annotated[
        dict[str, PartModel], parts_codec(ConvolutionSizes, PHASES), Place.OPTIONAL
    ] = field(default_factory=dict)
    recurrent: Annotated[
        dict[str, PartModel],
        parts_codec(ScanSizes, [recurrent_name(*each) for each in product(ALGORITHMS, PHASES)]),
        Place.OPTIONAL,
    ] = field(default_factory=dict)
    part_notes: Annotated[tuple[str, ...], Place.OPTIONAL] = ()
    part_error_fractions: Annotated[dict[PartName, float], Place.OPTIONAL] = field(
        default_factory=dict
    )
    machine: Annotated[Machine | None, Place.OPTIONAL] = None
    link: Annotated[Link | None, Place.OPTIONAL] = None

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

    def attention_s(self, phase: str, batch: Any, tokens: Any, mixer: Attention) -> FloatArray:
        """Return the time of attention, its products apart.

        Args:
            phase: ``prefill``, causal over prompts of so many tokens, or ``decode``, one new token
                for each sequence of such a context.
            batch: sequences.
            tokens: of each of them.
            mixer: the layout; a window bounds what is attended to.
        """
        window, layout = mixer.window, (mixer.heads, mixer.kv_heads, mean_width(mixer))
        model = self.prefill_attention if phase == "prefill" else self.decode_attention
        counts = np.asarray(tokens, np.float64)
        if window is None or (counts <= window).all():
            return model.time_s(attention_sizes(batch, counts, *layout))
        if phase in self.windows:
            windowed_s = self.windows[phase].time_s(window_sizes(phase, batch, counts, mixer))
        elif phase == "prefill":
            windowed_s = windowed_prefill_s(model, batch, counts, mixer)
        else:
            windowed_s = model.time_s(attention_sizes(batch, np.minimum(counts, window), *layout))
        whole_s = model.time_s(attention_sizes(batch, counts, *layout))
        return np.where(counts <= window, whole_s, windowed_s)

    def latent_s(self, phase: str, batch: Any, tokens: Any, mixer: LatentAttention) -> FloatArray:
        """Return the time of latent attention, its products apart; arguments as for attention."""
        model = self.latent.get(phase) or part_roofline(self.gemms["fp16"])
        if mixer.indexer is not None:
            return indexed_latent_s(model, phase, batch, tokens, mixer)
        return model.time_s(latent_sizes(phase, batch, tokens, mixer))

    def recurrent_s(self, phase: str, batch: Any, tokens: Any, mixer: Recurrent) -> FloatArray:
        """Return the time of a recurrent mixer, its products apart; arguments as for attention."""
        untimed = part_roofline(self.gemms["fp16"])
        scan = self.recurrent.get(recurrent_name(mixer.algorithm, phase), untimed)
        convolution = self.convolutions.get(phase, untimed)
        scan_s = scan.time_s(scan_sizes(phase, batch, tokens, mixer))
        return scan_s + convolution.time_s(convolution_sizes(phase, batch, tokens, mixer))

    def experts_s(
        self, format_name: str, tokens: Any, experts: Experts, hidden_size: int
    ) -> FloatArray:
        """Return the time of the routed experts of a layer for so many tokens.

        It is that of gate and up products, activation and down products; a router chooses all
        experts alike likely. The router and shared experts are products of their own.

        Raises:
            InputError: the profile has no measurements of the format.
        """
        alias = self.aliases.get(format_name, format_name)
        name = format_name if format_name in self.experts else alias
        model = self.experts.get(name) or experts_roofline(self._gemm(format_name))
        bits = FORMATS[name].bits_per_weight()
        return model.time_s(experts_sizes(tokens, experts, hidden_size, bits))

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

"""Latency of a layer, the embedding and the LM head for a micro-batch of a scenario."""

from collections.abc import Mapping
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.cluster import Device
from llmpq_sim.core.layers import (
    EXPERT_LINEARS,
    Attention,
    Dense,
    Experts,
    LatentAttention,
    LayerKind,
    Recurrent,
)
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.scenario import BatchWorkload, Scenario
from llmpq_sim.core.schedule import PrefillStep
from llmpq_sim.latency.kv_reads import with_narrow_cache
from llmpq_sim.latency.profile import DeviceProfile

FloatArray = NDArray[np.float64]

HEAD_FORMAT = "fp16"
"""Embedding and LM head stay at 16 bits, as in LLM-PQ."""

CONTEXT_KNOTS = 33
"""Contexts at which decode attention is evaluated; between them it is interpolated linearly."""


@lru_cache(maxsize=256)
def elementwise_bytes_per_token(layer_kind: LayerKind) -> int:
    """Return the bytes a layer moves per token outside its matrix products and its mixer.

    A fused residual addition with normalisation before each part reads and writes two hidden
    vectors; the rest is of the parts; 2 bytes an element.
    """
    mixer, feed_forward = layer_kind.mixer, layer_kind.feed_forward
    elements = 4 * layer_kind.hidden_size * ((mixer is not None) + (feed_forward is not None))
    return 2 * (elements + _mixer_elements(layer_kind) + _feed_forward_elements(layer_kind))


def _mixer_elements(layer_kind: LayerKind) -> int:
    """Return the elements that a mixer moves per token beside its products and its kernel.

    Rotary embedding, bias or norm read and write the projections; the gated norm of a recurrent
    mixer reads its output and a gate, and writes.
    """
    if isinstance(layer_kind.mixer, Recurrent):
        return sum(3 * part.in_features for part in layer_kind.mixer_linears if part.name == "out")
    return sum(2 * part.out_features for part in layer_kind.mixer_linears if part.name != "out")


def _feed_forward_elements(layer_kind: LayerKind) -> int:
    """Return the elements that a feed-forward part moves per token beside its products.

    The activation reads the up projection and writes its output, and routing reads and writes the
    router's; activations of routed experts are part of their kernels.
    """
    part = layer_kind.feed_forward
    if part is None:
        return 0
    linears = {linear.name: linear for linear in part.linears(layer_kind.hidden_size)}
    prefix = "" if isinstance(part, Dense) else "shared_"
    routed = 2 * part.count if isinstance(part, Experts) else 0
    if f"{prefix}up" not in linears:
        return routed
    return routed + linears[f"{prefix}up"].out_features + linears[f"{prefix}down"].in_features


def products_s(
    layer_kind: LayerKind, profile: DeviceProfile, format_name: str, tokens: FloatArray
) -> FloatArray:
    """Return the time of one layer without its mixer's kernel for batches of so many tokens.

    Overheads of layers were fitted to layers of two parts.
    """
    mixer, feed_forward = layer_kind.mixer, layer_kind.feed_forward
    moved = float(elementwise_bytes_per_token(layer_kind)) * tokens
    parts = (mixer is not None) + (feed_forward is not None)
    total_s = parts / 2 * profile.layer_overhead_s + profile.elementwise_s(moved)
    for linear in layer_kind.linears:
        if linear.name not in EXPERT_LINEARS:
            name = format_name if linear.is_formatted else HEAD_FORMAT
            total_s += profile.gemm_s(name, tokens, linear.out_features, linear.in_features)
    if isinstance(feed_forward, Experts):
        experts = next(linear for linear in layer_kind.linears if linear.name == "experts_up")
        name = format_name if experts.is_formatted else HEAD_FORMAT
        total_s += profile.experts_s(name, tokens, feed_forward, layer_kind.hidden_size)
    return total_s * profile.pipeline_factor(format_name, tokens)


def mixer_s(
    layer_kind: LayerKind, profile: DeviceProfile, phase: str, batch: FloatArray, tokens: FloatArray
) -> FloatArray:
    """Return the time of the kernel of a layer's mixer, its products apart.

    Args:
        layer_kind: the layer.
        profile: of the device.
        phase: ``prefill`` of prompts of so many tokens, or ``decode`` of one new token each.
        batch: sequences.
        tokens: of each prompt, or of each context.
    """
    time_s = _mixer_s(layer_kind, profile, phase, batch, tokens)
    if phase == "prefill":
        return time_s
    return with_narrow_cache(time_s, layer_kind, profile, batch, tokens)


def _mixer_s(
    layer_kind: LayerKind, profile: DeviceProfile, phase: str, batch: FloatArray, tokens: FloatArray
) -> FloatArray:
    """Return the time of a mixer's kernel over a cache of 16 bits."""
    mixer = layer_kind.mixer
    if isinstance(mixer, Attention):
        return profile.attention_s(phase, batch, tokens, mixer)
    if isinstance(mixer, LatentAttention):
        return profile.latent_s(phase, batch, tokens, mixer)
    if isinstance(mixer, Recurrent):
        return profile.recurrent_s(phase, batch, tokens, mixer)
    return np.zeros(np.broadcast_shapes(np.shape(batch), np.shape(tokens)))


def embeddings_s(model: ModelSpec, profile: DeviceProfile, tokens: FloatArray) -> FloatArray:
    """Return the time to look up and write the embeddings of so many tokens."""
    return profile.embedding_s(2.0 * 2 * model.hidden_size * tokens)


def heads_s(model: ModelSpec, profile: DeviceProfile, rows: FloatArray) -> FloatArray:
    """Return the time of final norm, LM head and sampling of one token for each row."""
    product_s = profile.gemm_s(HEAD_FORMAT, rows, model.vocab_size, model.hidden_size)
    return product_s + profile.head_s(8.0 * rows * model.vocab_size)


class LayerCosts:
    """Seconds of the building blocks of a scenario on each kind of device, computed once each.

    Attributes:
        scenario: what is served.
        profiles: latency profile of each kind of device, by the kind's name.
    """

    def __init__(self, scenario: Scenario, profiles: Mapping[str, DeviceProfile]) -> None:
        self.scenario = scenario
        self.profiles = dict(profiles)
        self._products: dict[tuple[str, str, int, int], float] = {}
        self._prompts: dict[tuple[str, int, int, int], float] = {}
        self._mixers: dict[tuple[str, int, int], FloatArray] = {}
        self._embedding: dict[tuple[str, int], float] = {}
        self._head: dict[tuple[str, int], float] = {}

    @cached_property
    def devices(self) -> dict[str, Device]:
        """The kinds of device in the cluster, by name."""
        return {member.device.name: member.device for member in self.scenario.cluster.devices}

    @property
    def rounds(self) -> int:
        """Decode rounds of the longest request: its first token comes from prefill."""
        return self.scenario.workload.longest_output_tokens - 1

    def prefill_layer_s(self, kind: str, format_name: str, rows: int, layer_kind: int) -> float:
        """Return the time of one layer for ``rows`` whole prompts."""
        prompt_tokens = self.scenario.workload.prompt_tokens
        whole = PrefillStep(rows, 0, prompt_tokens, is_last=True)
        return self.prefill_step_s(kind, format_name, whole, layer_kind)

    def prefill_step_s(
        self, kind: str, format_name: str, step: PrefillStep, layer_kind: int
    ) -> float:
        """Return the time of one layer of a kind for a chunk of prompts.

        Its attention is what it adds to that of the tokens before it, as in continuous batching
        (`llmpq_sim.simulator.continuous.mixed_costs`), so that the attention of all chunks of a
        prompt together is that of the whole prompt.
        """
        products_s = self._products_s(kind, format_name, step.step_tokens, layer_kind)
        before, after = step.before_tokens, step.before_tokens + step.tokens
        attention_s = self._prompts_s(kind, step.rows, after, layer_kind)
        if before:
            before_s = self._prompts_s(kind, step.rows, before, layer_kind)
            attention_s = max(attention_s - before_s, 0.0)
        return products_s + attention_s

    def decode_layer_s(self, kind: str, format_name: str, rows: int, layer_kind: int) -> FloatArray:
        """Return the time of one layer in each decode round, round 1 first. Shape: (rounds,)."""
        products_s = self._products_s(kind, format_name, rows, layer_kind)
        return products_s + self._decode_mixer_s(kind, rows, layer_kind)

    def step_s(self, kind: str) -> float:
        """Return what each step of a stage costs beside its layers, embedding and LM head."""
        return self.profiles[kind].step_overhead_s

    def embedding_s(self, kind: str, tokens: int) -> float:
        """Return the time to look up and write the embeddings of so many tokens."""
        key = (kind, tokens)
        if key not in self._embedding:
            model, profile = self.scenario.model, self.profiles[kind]
            self._embedding[key] = float(embeddings_s(model, profile, _array(tokens))[0])
        return self._embedding[key]

    def head_s(self, kind: str, rows: int) -> float:
        """Return the time of the LM head and of sampling one token for each row."""
        key = (kind, rows)
        if key not in self._head:
            model, profile = self.scenario.model, self.profiles[kind]
            self._head[key] = float(heads_s(model, profile, _array(rows))[0])
        return self._head[key]

    def _products_s(self, kind: str, format_name: str, tokens: int, layer_kind: int) -> float:
        key = (kind, format_name, tokens, layer_kind)
        if key not in self._products:
            layer, profile = self.scenario.model.kinds[layer_kind], self.profiles[kind]
            self._products[key] = float(products_s(layer, profile, format_name, _array(tokens))[0])
        return self._products[key]

    def _prompts_s(self, kind: str, rows: int, tokens: int, layer_kind: int) -> float:
        """Return the mixer's kernel of one layer over the first so many tokens of prompts."""
        key = (kind, rows, tokens, layer_kind)
        if key not in self._prompts:
            layer, profile = self.scenario.model.kinds[layer_kind], self.profiles[kind]
            kernel_s = mixer_s(layer, profile, "prefill", _array(rows), _array(tokens))
            self._prompts[key] = float(kernel_s[0])
        return self._prompts[key]

    def _decode_mixer_s(self, kind: str, rows: int, layer_kind: int) -> FloatArray:
        key = (kind, rows, layer_kind)
        if key not in self._mixers:
            layer = self.scenario.model.kinds[layer_kind]
            contexts = decode_contexts(self.scenario.workload)
            knots = context_knots(contexts, layer)
            rows_there = np.full_like(knots, rows)
            at_knots = mixer_s(layer, self.profiles[kind], "decode", rows_there, knots)
            self._mixers[key] = np.interp(contexts, knots, at_knots)
        return self._mixers[key]


def decode_contexts(workload: BatchWorkload) -> FloatArray:
    """Return the tokens a request attends to in each decode round; one round at least."""
    rounds = max(workload.longest_output_tokens - 1, 1)
    return workload.prompt_tokens + np.arange(1, rounds + 1, dtype=float)


def context_knots(contexts: FloatArray, layer_kind: LayerKind) -> FloatArray:
    """Return the contexts at which a mixer is evaluated, among them a full window."""
    knots = np.linspace(contexts[0], contexts[-1], CONTEXT_KNOTS).round()
    mixer = layer_kind.mixer
    window = mixer.window if isinstance(mixer, Attention) else None
    if window is not None and contexts[0] < window < contexts[-1]:
        knots = np.append(knots, float(window))
    return np.unique(knots)


def _array(value: float) -> FloatArray:
    return np.array([value], dtype=float)

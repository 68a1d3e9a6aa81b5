"""Latency of a layer, the embedding and the LM head for a micro-batch of a scenario."""

from collections.abc import Mapping
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.cluster import Device
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.scenario import BatchWorkload, Scenario
from llmpq_sim.core.schedule import PrefillStep
from llmpq_sim.latency.profile import DeviceProfile

FloatArray = NDArray[np.float64]

HEAD_FORMAT = "fp16"
"""Embedding and LM head stay at 16 bits, as in LLM-PQ."""

CONTEXT_KNOTS = 33
"""Contexts at which decode attention is evaluated; between them it is interpolated linearly."""


def elementwise_bytes_per_token(model: ModelSpec) -> int:
    """Return the bytes a layer moves per token outside its matrix products and attention.

    Each of two fused residual additions with normalisation reads and writes two hidden vectors,
    rotary embedding or bias reads and writes the projections, and the activation reads the up
    projection and writes its output; 2 bytes an element.
    """
    linears = {linear.name: linear for linear in model.linears}
    elements = (
        8 * model.hidden_size
        + 2 * linears["qkv"].out_features
        + linears["up"].out_features
        + linears["down"].in_features
    )
    return 2 * elements


def products_s(
    model: ModelSpec, profile: DeviceProfile, format_name: str, tokens: FloatArray
) -> FloatArray:
    """Return the time of one layer without its attention for batches of so many tokens."""
    moved = float(elementwise_bytes_per_token(model)) * tokens
    total_s = profile.layer_overhead_s + profile.elementwise_s(moved)
    for linear in model.linears:
        total_s += profile.gemm_s(format_name, tokens, linear.out_features, linear.in_features)
    return total_s * profile.pipeline_factor(format_name, tokens)


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
        self._products: dict[tuple[str, str, int], float] = {}
        self._prompts: dict[tuple[str, int, int], float] = {}
        self._attention: dict[tuple[str, int], FloatArray] = {}
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

    def prefill_layer_s(self, kind: str, format_name: str, rows: int) -> float:
        """Return the time of one layer for ``rows`` whole prompts."""
        prompt_tokens = self.scenario.workload.prompt_tokens
        whole = PrefillStep(rows, 0, prompt_tokens, is_last=True)
        return self.prefill_step_s(kind, format_name, whole)

    def prefill_step_s(self, kind: str, format_name: str, step: PrefillStep) -> float:
        """Return the time of one layer for a chunk of prompts.

        Its attention is what it adds to that of the tokens before it, as in continuous batching
        (`llmpq_sim.simulator.continuous.mixed_costs`), so that the attention of all chunks of a
        prompt together is that of the whole prompt.
        """
        products_s = self._products_s(kind, format_name, step.step_tokens)
        before, after = step.before_tokens, step.before_tokens + step.tokens
        attention_s = self._prompts_s(kind, step.rows, after)
        if before:
            attention_s = max(attention_s - self._prompts_s(kind, step.rows, before), 0.0)
        return products_s + attention_s

    def decode_layer_s(self, kind: str, format_name: str, rows: int) -> FloatArray:
        """Return the time of one layer in each decode round, round 1 first. Shape: (rounds,)."""
        return self._products_s(kind, format_name, rows) + self._decode_attention_s(kind, rows)

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

    def _products_s(self, kind: str, format_name: str, tokens: int) -> float:
        key = (kind, format_name, tokens)
        if key not in self._products:
            model, profile = self.scenario.model, self.profiles[kind]
            self._products[key] = float(products_s(model, profile, format_name, _array(tokens))[0])
        return self._products[key]

    def _prompts_s(self, kind: str, rows: int, tokens: int) -> float:
        """Return the attention of one layer over the first so many tokens of prompts."""
        key = (kind, rows, tokens)
        if key not in self._prompts:
            model, profile = self.scenario.model, self.profiles[kind]
            attention_s = profile.prefill_attention_s(
                _array(rows), _array(tokens), model.heads, model.kv_heads, model.head_dim
            )
            self._prompts[key] = float(attention_s[0])
        return self._prompts[key]

    def _decode_attention_s(self, kind: str, rows: int) -> FloatArray:
        key = (kind, rows)
        if key not in self._attention:
            model, workload = self.scenario.model, self.scenario.workload
            contexts = decode_contexts(workload)
            knots = np.unique(np.linspace(contexts[0], contexts[-1], CONTEXT_KNOTS).round())
            at_knots = self.profiles[kind].decode_attention_s(
                np.full_like(knots, rows), knots, model.heads, model.kv_heads, model.head_dim
            )
            self._attention[key] = np.interp(contexts, knots, at_knots)
        return self._attention[key]


def decode_contexts(workload: BatchWorkload) -> FloatArray:
    """Return the tokens a request attends to in each decode round; one round at least."""
    rounds = max(workload.longest_output_tokens - 1, 1)
    return workload.prompt_tokens + np.arange(1, rounds + 1, dtype=float)


def _array(value: float) -> FloatArray:
    return np.array([value], dtype=float)

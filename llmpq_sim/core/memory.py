"""Memory of a plan: bytes that each stage needs, and that its device has."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from llmpq_sim.core.cluster import Device
from llmpq_sim.core.formats import FORMATS, WeightFormat
from llmpq_sim.core.layers import HALF_BYTES, Dense, LayerKind
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.plan import MicroBatching, Plan
from llmpq_sim.core.scenario import BatchWorkload, Scenario

ACTIVATION_BYTES = 2


@dataclass(frozen=True)
class StageMemory:
    """Bytes of one stage by purpose, and the bytes its device has."""

    weights_bytes: int
    kv_bytes: int
    ends_bytes: int
    temporaries_bytes: int
    runtime_bytes: int
    limit_bytes: int

    @property
    def total_bytes(self) -> int:
        """All bytes the stage needs."""
        return (
            self.weights_bytes
            + self.kv_bytes
            + self.ends_bytes
            + self.temporaries_bytes
            + self.runtime_bytes
        )

    @property
    def free_bytes(self) -> int:
        """What the device has left; negative where the stage does not fit."""
        return self.limit_bytes - self.total_bytes

    @property
    def fits(self) -> bool:
        """Whether the device has what the stage needs."""
        return self.total_bytes <= self.limit_bytes


@lru_cache(maxsize=1024)
def layer_weight_bytes(layer_kind: LayerKind, weight_format: WeightFormat) -> int:
    """Return the stored bytes of one layer: codes, scales, and what stays at 16 bits."""
    matrices = sum(
        linear.copies * weight_format.matrix_bytes(linear.out_features, linear.in_features)
        for linear in layer_kind.linears
        if linear.is_formatted
    )
    return matrices + HALF_BYTES * layer_kind.plain_elements


def layers_weight_bytes(model: ModelSpec, first: int, formats: Sequence[str]) -> int:
    """Return the stored bytes of consecutive layers, from the first on, in these formats."""
    numbers = model.kind_of_layer[first : first + len(formats)]
    return sum(
        layers * layer_weight_bytes(model.kinds[number], FORMATS[name])
        for (number, name), layers in Counter(zip(numbers, formats, strict=True)).items()
    )


def embedding_bytes(model: ModelSpec) -> int:
    """Return the bytes before the layers, which the first stage holds: the 16-bit embedding too."""
    return HALF_BYTES * model.embedding_weights + model.extra_first_bytes


def head_bytes(model: ModelSpec) -> int:
    """Return the 16-bit bytes of the LM head, which the last stage holds, tied or not."""
    return HALF_BYTES * model.head_weights


def ends_bytes(model: ModelSpec, is_first: bool, is_last: bool) -> int:
    """Return the bytes of embedding and LM head on a stage; one stage shares a tied matrix."""
    if is_first and is_last and model.tied_embeddings:
        return embedding_bytes(model)
    return is_first * embedding_bytes(model) + is_last * head_bytes(model)


def temporaries_bytes(
    model: ModelSpec, workload: BatchWorkload, micro_batching: MicroBatching
) -> int:
    """Return the bytes of activations and workspace for the larger of the two micro-batches.

    A prefill micro-batch has those of its largest chunk.
    """
    chunk_tokens = micro_batching.chunks(workload.prompt_tokens)[0]
    tokens = max(micro_batching.prefill * chunk_tokens, micro_batching.decode)
    return batch_temporaries_bytes(model, tokens)


def batch_temporaries_bytes(model: ModelSpec, tokens: int) -> int:
    """Return the bytes of activations and workspace that any stage needs for a batch.

    Activations: the residual stream with its normalised copy, a message received and one being
    sent (5 hidden vectors a token), and the wider of attention (projections and output) and MLP
    (up projection and activated); attention itself works in blocks. Workspace: the largest matrix
    at 16 bits, which is there while a layer is loaded and while a quantized one is decoded for a
    large product.
    """
    per_token = 5 * model.hidden_size + max(_widest_part(kind) for kind in model.kinds)
    workspace = max(
        linear.out_features * linear.in_features for kind in model.kinds for linear in kind.linears
    )
    return ACTIVATION_BYTES * (tokens * per_token + workspace)


@lru_cache(maxsize=256)
def _widest_part(layer_kind: LayerKind) -> int:
    """Return the elements of a token within the wider part of a layer.

    A mixer has the outputs of its projections and the input of the last one.
    """
    mixer = sum(
        part.in_features if part.name == "out" else part.out_features
        for part in layer_kind.mixer_linears
    )
    return max(mixer, _feed_forward_width(layer_kind))


def _feed_forward_width(layer_kind: LayerKind) -> int:
    """Return the elements of a token within a feed-forward part.

    Each of the experts that a token goes through has its up projection, later its output in the
    same place, and what is activated. Source: vLLM, ``fused_moe.py``, intermediate caches.
    """
    part = layer_kind.feed_forward
    if part is None:
        return 0
    linears = {linear.name: linear for linear in part.linears(layer_kind.hidden_size)}
    if isinstance(part, Dense):
        return linears["up"].out_features + linears["down"].in_features
    up, down = linears["experts_up"], linears["experts_down"]
    inside = part.chosen * (max(up.out_features, down.out_features) + down.in_features)
    if not part.shared_inner_size:
        return inside
    return inside + linears["shared_up"].out_features + linears["shared_down"].in_features


def logits_bytes(model: ModelSpec, micro_batching: MicroBatching) -> int:
    """Return the bytes of logits on the last stage for the larger of the two micro-batches."""
    return sampled_logits_bytes(model, max(micro_batching.prefill, micro_batching.decode))


def sampled_logits_bytes(model: ModelSpec, rows: int) -> int:
    """Return the bytes of logits of so many rows: 16 bits from the head, 32 to sample."""
    return 6 * rows * model.vocab_size


def layer_cache_bytes(
    layer_kind: LayerKind, workload: BatchWorkload, micro_batching: MicroBatching
) -> int:
    """Return the bytes that one layer keeps of every row of a wave at its longest."""
    rows = micro_batching.wave_rows(workload.requests)
    return layer_kind.cache_bytes(rows, workload.context_tokens)


def available_bytes(
    device: Device, model: ModelSpec, workload: BatchWorkload, micro_batching: MicroBatching
) -> int:
    """Return the bytes a device has for layers and ends (negative if not even for temporaries)."""
    needed = device.runtime_bytes + temporaries_bytes(model, workload, micro_batching)
    return device.memory_bytes - needed


def plan_memory(plan: Plan, scenario: Scenario) -> list[StageMemory]:
    """Return the memory of each stage of a plan."""
    model, workload, batching = scenario.model, scenario.workload, plan.micro_batching
    temporaries = temporaries_bytes(model, workload, batching)
    cache_bytes = [layer_cache_bytes(kind, workload, batching) for kind in model.kinds]
    stages = []
    for number, (stage, first) in enumerate(zip(plan.stages, plan.first_layers(), strict=True)):
        counts = model.count_kinds(first, first + len(stage.formats))
        is_last = number == len(plan.stages) - 1
        position = scenario.cluster.index(stage.device, f"plan.stages[{number}].device")
        device = scenario.cluster.devices[position].device
        stages.append(
            StageMemory(
                weights_bytes=layers_weight_bytes(model, first, stage.formats),
                kv_bytes=sum(
                    layers * each for layers, each in zip(counts, cache_bytes, strict=True)
                ),
                ends_bytes=ends_bytes(model, number == 0, is_last),
                temporaries_bytes=temporaries + is_last * logits_bytes(model, batching),
                runtime_bytes=device.runtime_bytes,
                limit_bytes=device.memory_bytes,
            )
        )
    return stages


def reference_layer_bytes(model: ModelSpec, bits: int, sequences: int, context_tokens: int) -> int:
    """Return one layer's weights and KV cache as LLM-PQ's reference counts them.

    ``(4 h1^2 + 2 h1 h2) bits / 8 + 4 h1`` and ``4 B h1 (s + n)``: no scales or zero points, no
    grouped-query attention. Kept to compare with ours. Source: LLM-PQ reference implementation.
    """
    hidden, wide = model.hidden_size, model.only_kind.dense.inner_size
    weights = (4 * hidden**2 + 2 * hidden * wide) * bits // 8 + 4 * hidden
    return weights + 4 * sequences * hidden * context_tokens

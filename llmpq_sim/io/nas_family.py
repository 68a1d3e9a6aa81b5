"""Nemotron-NAS, every layer of which was searched for: ``block_configs`` says what each one is."""

from dataclasses import dataclass

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.layers import Attention, Dense
from llmpq_sim.io.decoder_family import DecoderFamily
from llmpq_sim.io.family_config import FamilyConfig, check_length
from llmpq_sim.io.layer_parts import Part
from llmpq_sim.io.layer_patterns import DENSE, FULL

INNER_MULTIPLE = 256
"""Inner sizes are rounded up to a multiple of this. Source: DeciLM, ``_find_multiple``."""


def _block(config: FamilyConfig, part: str) -> Fields:
    """Return what the config says of a part of the layer.

    Raises:
        InputError: there is not one block for each layer, or a part is replaced by what is not
            understood.
    """
    blocks = config.fields.each("block_configs")
    check_length(list(blocks), config.layers, f"{config.fields.where}.block_configs")
    block = blocks[config.layer or 0].fields(part)
    for key in ("replace_with_linear", "sparsify"):
        if block.value(key, False):
            raise InputError(
                f"{block.where}.{key}: expected nothing, got {block.value(key)}; a part made of "
                "something else is not understood"
            )
    return block


@dataclass(frozen=True)
class SearchedAttention:
    """Grouped-query attention whose groups differ by layer, or none."""

    def read(self, config: FamilyConfig, hidden: int) -> Part:
        """Return the attention of a layer, with the norm before it.

        Raises:
            InputError: a value is missing or cannot be.
        """
        block = _block(config, "attention")
        if block.flag("no_op", False):
            return Part(None)
        heads, group = config.integer("num_attention_heads"), block.integer("n_heads_in_group")
        head_dim = config.integer("head_dim", hidden // heads)
        if heads % group or (not config.has("head_dim") and hidden % heads):
            raise InputError(
                f"{block.where}.n_heads_in_group: expected groups of equal size of {heads} heads "
                f"that divide a hidden size of {hidden}, got {group}"
            )
        window = block.integer("window_length", 0, least=0) or None
        return Part(Attention(heads, heads // group, head_dim, head_dim, window), 0, hidden)


@dataclass(frozen=True)
class SearchedFeedForward:
    """A gated feed-forward part whose inner size differs by layer, or none."""

    def read(self, config: FamilyConfig, hidden: int) -> Part:
        """Return the feed-forward part of a layer, with the norm before it.

        Raises:
            InputError: a value is missing or cannot be.
        """
        block = _block(config, "ffn")
        if block.flag("no_op", False):
            return Part(None)
        if block.has("intermediate_size"):
            return Part(Dense(block.integer("intermediate_size")), 0, hidden)
        inner = int(2 * block.number("ffn_mult") * hidden / 3)
        return Part(Dense(-(-inner // INNER_MULTIPLE) * INNER_MULTIPLE), 0, hidden)


NEMOTRON_NAS = DecoderFamily(
    "DeciLMForCausalLM",
    norms=0,
    mixers={FULL: SearchedAttention()},
    parts={DENSE: SearchedFeedForward()},
)
"""Source: the models' own ``modeling_decilm.py``."""

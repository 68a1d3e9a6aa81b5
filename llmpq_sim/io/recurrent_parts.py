"""Rules by which families' configs are read into recurrent mixers."""

from collections.abc import Mapping
from dataclasses import dataclass

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.layers import Linear, Recurrent
from llmpq_sim.io.family_config import FamilyConfig, Switch
from llmpq_sim.io.layer_parts import Part

STATE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def _state_bytes(config: FamilyConfig) -> int:
    """Return the bytes of an element of a state: 4 where the config does not say otherwise.

    Source: vLLM keeps states in ``mamba_ssm_cache_dtype``; kernels of published models in float32.
    """
    for key in ("mamba_ssm_cache_dtype", "mamba_ssm_dtype"):
        if config.fields.has(key):
            return STATE_BYTES[config.fields.choice(key, tuple(STATE_BYTES))]
    return STATE_BYTES["float32"]


@dataclass(frozen=True)
class GatedDelta:
    """Gated DeltaNet (arXiv:2412.06464), as Qwen3-Next has it.

    Attributes:
        norms: vectors of the hidden size that layers with this mixer have less of.
    """

    def read(self, config: FamilyConfig, hidden: int) -> Part:
        """Return the mixer of a layer.

        Raises:
            InputError: a value is missing or cannot be.
        """
        key_heads = config.integer("linear_num_key_heads")
        heads = config.integer("linear_num_value_heads")
        key_dim = config.integer("linear_key_head_dim")
        value_dim = config.integer("linear_value_head_dim")
        kernel = config.integer("linear_conv_kernel_dim")
        if heads % key_heads:
            raise InputError(
                f"{config.where('linear_num_value_heads')}: expected a multiple of "
                f"{key_heads} key heads, got {heads}"
            )
        keys, values = key_heads * key_dim, heads * value_dim
        channels = 2 * keys + values
        return Part(
            Recurrent(
                algorithm="gated-delta",
                projections=(
                    Linear("in", channels + values, hidden),
                    Linear("gates", 2 * heads, hidden, is_formatted=False),
                    Linear("out", hidden, values),
                ),
                heads=heads,
                key_dim=key_dim,
                value_dim=value_dim,
                state_elements=heads * key_dim * value_dim,
                state_element_bytes=_state_bytes(config),
                convolution_elements=channels * (kernel - 1),
                convolution_weights=channels * kernel,
            ),
            bias_elements=2 * heads,
            norm_elements=value_dim,
        )


@dataclass(frozen=True)
class KimiDelta:
    """Kimi delta attention: a gate for each channel, made through a narrow product."""

    def read(self, config: FamilyConfig, hidden: int) -> Part:
        """Return the mixer of a layer.

        Raises:
            InputError: a value is missing or cannot be.
        """
        heads, width = config.integer("linear_num_heads"), config.integer("linear_head_dim")
        kernel = config.integer("linear_conv_kernel_dim")
        inner = heads * width
        return Part(
            Recurrent(
                algorithm="kimi-delta",
                projections=(
                    Linear("qkv", 3 * inner, hidden),
                    Linear("gates_down", 2 * width, hidden, is_formatted=False),
                    Linear("gates_up", 2 * inner, width, is_formatted=False),
                    Linear("beta", heads, hidden, is_formatted=False),
                    Linear("out", hidden, inner),
                ),
                heads=heads,
                key_dim=width,
                value_dim=width,
                state_elements=heads * width * width,
                state_element_bytes=_state_bytes(config),
                convolution_elements=3 * inner * (kernel - 1),
                convolution_weights=3 * inner * kernel,
            ),
            bias_elements=inner + heads,
            norm_elements=width,
        )


@dataclass(frozen=True)
class Mamba2:
    """Mamba-2 (arXiv:2405.21060).

    Attributes:
        keys: the family's names of heads, width, groups, state and conv.
        bias, conv_bias: keys of switches of biases.
    """

    keys: Mapping[str, str]
    bias: Switch = ("mamba_proj_bias", False)
    conv_bias: Switch = ("mamba_conv_bias", True)

    def read(self, config: FamilyConfig, hidden: int) -> Part:
        """Return the mixer of a layer.

        Raises:
            InputError: a value is missing or cannot be.
        """
        heads = config.integer(self.keys["heads"])
        groups, state = config.integer(self.keys["groups"], 1), config.integer(self.keys["state"])
        kernel = config.integer(self.keys["conv"], 4)
        width = self._width(config, hidden, heads)
        inner = heads * width
        channels = inner + 2 * groups * state
        rows = inner + channels + heads
        return Part(
            Recurrent(
                algorithm="mamba-2",
                projections=(Linear("in", rows, hidden), Linear("out", hidden, inner)),
                heads=heads,
                key_dim=state,
                value_dim=width,
                state_elements=inner * state,
                state_element_bytes=_state_bytes(config),
                convolution_elements=channels * kernel,
                convolution_weights=channels * kernel,
            ),
            bias_elements=(
                3 * heads
                + config.is_on(self.conv_bias) * channels
                + config.is_on(self.bias) * (rows + hidden)
            ),
            norm_elements=inner,
        )

    def _width(self, config: FamilyConfig, hidden: int, heads: int) -> int:
        key = self.keys["width"]
        if config.value(key) not in (None, "auto"):
            return config.integer(key)
        inner = config.integer(self.keys["expand"], 2) * hidden
        if inner % heads:
            raise InputError(
                f"{config.where(key)}: expected heads that divide {inner}, got {heads}"
            )
        return inner // heads


@dataclass(frozen=True)
class Mamba1:
    """Mamba-1 (arXiv:2312.00752), with the norms that Jamba adds where it does.

    Attributes:
        keys: the family's names of state, conv, expand, rank and inner size.
        bias, conv_bias: switches of biases.
        has_norms: whether the step, the input and the output of the state are normalised.
    """

    keys: Mapping[str, str]
    bias: Switch = False
    conv_bias: Switch = True
    has_norms: bool = False

    def read(self, config: FamilyConfig, hidden: int) -> Part:
        """Return the mixer of a layer.

        Raises:
            InputError: a value is missing or cannot be.
        """
        state, kernel = config.integer(self.keys["state"]), config.integer(self.keys["conv"], 4)
        inner = config.integer(self.keys["expand"], 2) * hidden
        if "inner" in self.keys:
            inner = config.integer(self.keys["inner"], inner)
        rank = self._rank(config, hidden)
        return Part(
            Recurrent(
                algorithm="mamba-1",
                projections=(
                    Linear("in", 2 * inner, hidden),
                    Linear("x", rank + 2 * state, inner),
                    Linear("dt", inner, rank),
                    Linear("out", hidden, inner),
                ),
                heads=inner,
                key_dim=state,
                value_dim=1,
                state_elements=inner * state,
                state_element_bytes=_state_bytes(config),
                convolution_elements=inner * kernel,
                convolution_weights=inner * kernel,
            ),
            bias_elements=(
                inner * state
                + 2 * inner
                + config.is_on(self.conv_bias) * inner
                + config.is_on(self.bias) * (2 * inner + hidden)
            ),
            norm_elements=self.has_norms * (rank + 2 * state),
        )

    def _rank(self, config: FamilyConfig, hidden: int) -> int:
        key = self.keys["rank"]
        if config.value(key) in (None, "auto"):
            return -(-hidden // 16)
        return config.integer(key)

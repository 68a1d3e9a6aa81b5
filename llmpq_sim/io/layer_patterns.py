"""Rules by which families arrange their layers, where a config does not list them."""

from collections.abc import Callable, Iterable
from typing import Literal

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import kind_of
from llmpq_sim.io.family_config import FamilyConfig, check_length

Pattern = Callable[[FamilyConfig, int], tuple[str, ...]]
"""Returns the names of so many layers of a config: of their mixers, or of their other part."""

FULL, SLIDING, CHUNKED, LINEAR, INDEXED = (
    "full_attention",
    "sliding_attention",
    "chunked_attention",
    "linear_attention",
    "indexed_attention",
)
"""Names of mixers as transformers 5 has them."""

DENSE, SPARSE, NOTHING = "dense", "sparse", "nothing"
"""Names of feed-forward parts: the first two as transformers 5 has them."""

LEGACY = {
    "attention": FULL,
    "mamba": LINEAR,
    "mamba2": LINEAR,
    "deepseek_sparse_attention": INDEXED,
}
"""Older names of mixers. Source: transformers, ``_LEGACY_LAYER_TYPE_REMAP``."""


def layer_names(config: FamilyConfig, key: str, layers: int, pattern: Pattern) -> tuple[str, ...]:
    """Return the name of each layer, as listed in the config or else by the family's rule.

    Raises:
        InputError: the list has not one text for each layer.
    """
    listed = config.value(key)
    if listed is None:
        return pattern(config, layers)
    where = config.where(key)
    texts = [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []
    if not isinstance(listed, list) or len(texts) < len(listed):
        raise InputError(f"{where}: expected a list of texts, got {kind_of(listed)}")
    check_length(listed, layers, where)
    return tuple(LEGACY.get(name, name) for name in texts)


def all_of(name: str) -> Pattern:
    """Return the rule of layers that are all alike."""
    return lambda _config, layers: (name,) * layers


def windowed(config: FamilyConfig, layers: int) -> tuple[str, ...]:
    """Return windows for all layers where the config gives one (Mistral, Phi-3)."""
    has_window = config.flag("use_sliding_window", True) and config.optional("sliding_window")
    return (SLIDING if has_window else FULL,) * layers


def windowed_from(config: FamilyConfig, layers: int) -> tuple[str, ...]:
    """Return windows from ``max_window_layers`` on, where they are asked for (Qwen2)."""
    if windowed(config, layers)[:1] != (SLIDING,):
        return (FULL,) * layers
    first = config.integer("max_window_layers", least=0)
    return tuple(SLIDING if layer >= first else FULL for layer in range(layers))


def windowed_until(config: FamilyConfig, layers: int) -> tuple[str, ...]:
    """Return windows for every other layer before ``max_window_layers`` (Qwen2-MoE)."""
    if windowed(config, layers)[:1] != (SLIDING,):
        return (FULL,) * layers
    end = config.integer("max_window_layers", least=0)
    return tuple(SLIDING if layer % 2 == 0 and layer < end else FULL for layer in range(layers))


def every(count: int, key: str = "", rest: str = SLIDING, shift: int = 0) -> Pattern:
    """Return the rule of full attention in every so many layers, the last of each.

    Args:
        count: how many, where the config does not say.
        key: under which it says: a number, or one letter a layer, G of which is full attention
            (``LLLG``); empty where it never does.
        rest: name of the other layers.
        shift: layers by which the full ones come earlier.
    """

    def names(config: FamilyConfig, layers: int) -> tuple[str, ...]:
        if rest == SLIDING and config.optional("sliding_window") is None:
            return (FULL,) * layers
        letters = config.value(key) if key else None
        if isinstance(letters, str) and letters:
            return tuple(
                FULL if letters[layer % len(letters)] == "G" else rest for layer in range(layers)
            )
        period = config.integer(key, count) if key else count
        return tuple(FULL if (layer + 1 + shift) % period == 0 else rest for layer in range(layers))

    return names


def flagged(key: str, names: tuple[str, str], otherwise: Pattern) -> Pattern:
    """Return the rule of a list of 0 and 1 that choose between two names."""

    def chosen(config: FamilyConfig, layers: int) -> tuple[str, ...]:
        flags = config.value(key)
        if not isinstance(flags, list) or not flags:
            return otherwise(config, layers)
        check_length(flags, layers, config.where(key))
        if any(flag not in (0, 1) for flag in flags):
            raise InputError(f"{config.where(key)}: expected zeros and ones")
        return tuple(names[int(flag)] for flag in flags)

    return chosen


def at(period: str, offset: str, inside: str, outside: str) -> Pattern:
    """Return the rule of one layer in every period, by the keys of both numbers (Jamba)."""

    def names(config: FamilyConfig, layers: int) -> tuple[str, ...]:
        step, first = config.integer(period), config.integer(offset, least=0)
        return tuple(inside if layer % step == first else outside for layer in range(layers))

    return names


def numbered(
    key: str, inside: str, outside: str, otherwise: Pattern, first: Literal[0, 1] = 0
) -> Pattern:
    """Return the rule of a list of the numbers of layers, which count from ``first``."""

    def names(config: FamilyConfig, layers: int) -> tuple[str, ...]:
        numbers = config.value(key)
        if numbers is None:
            return otherwise(config, layers)
        chosen = _layers_in(numbers, config.where(key), layers, first)
        return tuple(inside if layer in chosen else outside for layer in range(layers))

    return names


def _layers_in(numbers: object, where: str, layers: int, first: int) -> set[int]:
    listed = numbers if isinstance(numbers, list) else []
    chosen = {number - first for number in listed if type(number) is int}
    if not isinstance(numbers, list) or len(chosen) != len(listed):
        raise InputError(f"{where}: expected a list of different whole numbers")
    wrong = sorted(number + first for number in chosen if not 0 <= number < layers)
    if wrong:
        raise InputError(f"{where}: expected numbers of {layers} layers, got {wrong[0]}")
    return chosen


def spelled(key: str, letters: dict[str, str], otherwise: Pattern) -> Pattern:
    """Return the rule of a text of one letter for each layer (Nemotron-H)."""

    def names(config: FamilyConfig, layers: int) -> tuple[str, ...]:
        text = config.value(key)
        if text is None:
            return otherwise(config, layers)
        where = config.where(key)
        if not isinstance(text, str) or set(text) - set(letters):
            raise InputError(f"{where}: expected letters of {', '.join(letters)}, got {text!r}")
        check_length(list(text), layers, where)
        return tuple(letters[letter] for letter in text)

    return names


def dense_first(default: int, key: str = "first_k_dense_replace") -> Pattern:
    """Return the rule of dense layers first and experts then, in every ``moe_layer_freq``."""

    def counted(config: FamilyConfig, layers: int) -> tuple[str, ...]:
        dense = config.integer(key, default, least=0)
        step = config.integer("moe_layer_freq", 1)
        return _sparse_where(layer >= dense and layer % step == 0 for layer in range(layers))

    listed = flagged("moe_layer_freq", (DENSE, SPARSE), counted)

    def names(config: FamilyConfig, layers: int) -> tuple[str, ...]:
        config.has(key)  # which says the same where each layer is listed
        return listed(config, layers)

    return names


def sparse_steps(config: FamilyConfig, layers: int) -> tuple[str, ...]:
    """Return experts in every ``decoder_sparse_step``, except where told (Qwen2-MoE)."""
    step = config.integer("decoder_sparse_step", 1)
    only = config.value("mlp_only_layers")
    dense = _layers_in([] if only is None else only, config.where("mlp_only_layers"), layers, 0)
    return _sparse_where((layer + 1) % step == 0 and layer not in dense for layer in range(layers))


def interleaved(config: FamilyConfig, layers: int) -> tuple[str, ...]:
    """Return experts in every ``interleave_moe_layer_step`` (Llama 4)."""
    step = config.integer("interleave_moe_layer_step", 1)
    return _sparse_where((layer + 1) % step == 0 for layer in range(layers))


def between(config: FamilyConfig, layers: int) -> tuple[str, ...]:
    """Return experts between two layers, in every ``moe_layer_interval`` (ERNIE 4.5)."""
    step = config.integer("moe_layer_interval", 1)
    first = config.integer("moe_layer_start_index", 1, least=0)
    last = config.integer("moe_layer_end_index", -1, least=-1)
    last = layers - 1 if last == -1 else last
    return _sparse_where(
        (layer + 1) % step == 0 and first <= layer <= last for layer in range(layers)
    )


def _sparse_where(flags: Iterable[bool]) -> tuple[str, ...]:
    return tuple(SPARSE if flag else DENSE for flag in flags)

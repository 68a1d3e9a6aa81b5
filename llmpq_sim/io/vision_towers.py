"""Elements of vision towers and of what joins them to a language model, by their configs.

A tower stands before the embedding and is used once an image; its weights lie on the first stage.
Source: each tower's modelling file in transformers, against whose own models a test counts them.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields

CountTower = Callable[[Fields, Fields, int], int]
"""Returns the elements of a tower and its projector: given the config of the whole, that of the
tower, and the language model's hidden size."""


def linear(inputs: int, outputs: int, *, bias: bool = True) -> int:
    """Return the elements of a product."""
    return inputs * outputs + bias * outputs


def block(
    hidden: int, inner: int, *, gated: bool = False, bias: bool = True, norms: int = 4
) -> int:
    """Return the elements of an encoder layer: attention, feed-forward part and norms."""
    attention = 4 * linear(hidden, hidden, bias=bias)
    up = (2 if gated else 1) * linear(hidden, inner, bias=bias)
    return attention + up + linear(inner, hidden, bias=bias) + norms * hidden


def _image_patches(tower: Fields, image: int, patch: int) -> int:
    return (_side(tower, "image_size", image) // _side(tower, "patch_size", patch)) ** 2


def _side(tower: Fields, key: str, default: int) -> int:
    """Return a length that is stated once, or once for each side."""
    value = tower.value(key, default)
    if isinstance(value, list) and value:
        sides = Fields({key: value[0]}, tower.where)
        return sides.integer(key)
    return tower.integer(key, default)


def _patches(
    tower: Fields, hidden: int, default: int, *, frames: int = 1, bias: bool = True
) -> int:
    channels = tower.integer("num_channels" if tower.has("num_channels") else "in_channels", 3)
    return linear(channels * frames * _side(tower, "patch_size", default) ** 2, hidden, bias=bias)


def siglip(tower: Fields, *, has_head: bool) -> int:
    """Return the elements of a SigLIP encoder, with its pooling head or without."""
    hidden = tower.integer("hidden_size", 768)
    inner, layers = tower.integer("intermediate_size", 3072), tower.integer("num_hidden_layers", 12)
    one = block(hidden, inner)
    head = one - 2 * hidden + hidden if has_head else 0  # a probe, and one norm in place of two
    positions = _image_patches(tower, 224, 16) * hidden
    return _patches(tower, hidden, 16) + positions + layers * one + 2 * hidden + head


def clip(tower: Fields) -> int:
    """Return the elements of a CLIP encoder."""
    hidden = tower.integer("hidden_size", 768)
    inner, layers = tower.integer("intermediate_size", 3072), tower.integer("num_hidden_layers", 12)
    positions = (_image_patches(tower, 224, 32) + 2) * hidden  # and a class token, twice
    patches = _patches(tower, hidden, 32, bias=False)
    return patches + positions + layers * block(hidden, inner) + 4 * hidden


def pixtral(tower: Fields) -> int:
    """Return the elements of a Pixtral encoder."""
    hidden = tower.integer("hidden_size", 1024)
    inner, layers = tower.integer("intermediate_size", 4096), tower.integer("num_hidden_layers", 24)
    one = block(hidden, inner, gated=True, bias=False, norms=2)
    return _patches(tower, hidden, 16, bias=False) + hidden + layers * one


def _gemma3(_whole: Fields, tower: Fields, width: int) -> int:
    hidden = tower.integer("hidden_size", 768)
    # transformers makes the pooling head, which no checkpoint holds, unless told otherwise
    has_head = tower.flag("vision_use_head", False)
    return siglip(tower, has_head=has_head) + linear(hidden, width, bias=False) + hidden


def _mistral3(whole: Fields, tower: Fields, width: int) -> int:
    hidden, merged = tower.integer("hidden_size", 1024), whole.integer("spatial_merge_size", 2) ** 2
    bias = whole.flag("multimodal_projector_bias", False)
    projector = (
        hidden
        + linear(merged * hidden, hidden, bias=False)
        + linear(hidden, width, bias=bias)
        + linear(width, width, bias=bias)
    )
    return pixtral(tower) + projector


def _llava(whole: Fields, tower: Fields, width: int) -> int:
    kind = tower.choice(
        "model_type", ("clip_vision_model", "siglip_vision_model", "pixtral"), "clip_vision_model"
    )
    bias = whole.flag("multimodal_projector_bias", True)
    hidden = tower.integer("hidden_size")
    encoder = {
        "clip_vision_model": lambda: clip(tower),
        "siglip_vision_model": lambda: siglip(tower, has_head=tower.flag("vision_use_head", True)),
        "pixtral": lambda: pixtral(tower),
    }[kind]()
    return encoder + linear(hidden, width, bias=bias) + linear(width, width, bias=bias)


def _qwen2_vl(_whole: Fields, tower: Fields, width: int) -> int:
    hidden = tower.integer("embed_dim", 1280)
    inner = int(tower.number("mlp_ratio", 4) * hidden)
    frames = tower.integer("temporal_patch_size", 2)
    merged = tower.integer("spatial_merge_size", 2) ** 2 * hidden
    return (
        _patches(tower, hidden, 14, frames=frames, bias=False)
        + tower.integer("depth", 32) * block(hidden, inner)
        + 2 * hidden
        + linear(merged, merged)
        + linear(merged, tower.integer("hidden_size", width))
    )


def _qwen2_5_vl(_whole: Fields, tower: Fields, width: int) -> int:
    hidden, inner = tower.integer("hidden_size", 3584), tower.integer("intermediate_size", 3420)
    frames = tower.integer("temporal_patch_size", 2)
    merged = tower.integer("spatial_merge_size", 2) ** 2 * hidden
    return (
        _patches(tower, hidden, 14, frames=frames, bias=False)
        + tower.integer("depth", 32) * block(hidden, inner, gated=True, norms=2)
        + hidden
        + linear(merged, merged)
        + linear(merged, tower.integer("out_hidden_size", width))
    )


def _qwen3_vl(_whole: Fields, tower: Fields, width: int) -> int:
    hidden, inner = tower.integer("hidden_size", 1152), tower.integer("intermediate_size", 4304)
    frames = tower.integer("temporal_patch_size", 2)
    merged = tower.integer("spatial_merge_size", 2) ** 2 * hidden
    joined = linear(merged, merged) + linear(merged, tower.integer("out_hidden_size", width))
    deep = len(tower.items("deepstack_visual_indexes", []))
    return (
        _patches(tower, hidden, 16, frames=frames)
        + tower.integer("num_position_embeddings", 2304) * hidden
        + tower.integer("depth", 27) * block(hidden, inner)
        + (joined + 2 * hidden)
        + deep * (joined + 2 * merged)
    )


def _llama4(_whole: Fields, tower: Fields, width: int) -> int:
    hidden, inner = tower.integer("hidden_size", 768), tower.integer("intermediate_size", 5632)
    middle = tower.integer("projector_input_dim", 4096)
    out = tower.integer("projector_output_dim", 4096)
    return (
        _patches(tower, hidden, 14, bias=False)
        + (_image_patches(tower, 448, 14) + 2) * hidden
        + tower.integer("num_hidden_layers", 34) * block(hidden, inner)
        + 4 * hidden
        + linear(inner, middle, bias=False)
        + linear(middle, out, bias=False)
        + linear(tower.integer("vision_output_dim", 7680), width, bias=False)
    )


def _kimi(_whole: Fields, tower: Fields, width: int) -> int:
    prefix = "vt_" if tower.has("vt_hidden_size") else ""
    rows = "init_pos_emb" if tower.has("init_pos_emb_height") else "pos_emb"
    hidden = tower.integer(f"{prefix}hidden_size", 1152)
    inner = tower.integer(f"{prefix}intermediate_size", 4304)
    places = tower.integer(f"{rows}_height", 64) * tower.integer(f"{rows}_width", 64)
    merged = 4 * hidden
    return (
        _patches(tower, hidden, 14)
        + places * hidden
        + tower.integer(f"{prefix}num_hidden_layers", 27) * block(hidden, inner)
        + 2 * hidden
        + 2 * hidden
        + linear(merged, merged)
        + linear(merged, width)
    )


def _internvl(whole: Fields, tower: Fields, width: int) -> int:
    hidden, inner = tower.integer("hidden_size", 1024), tower.integer("intermediate_size", 4096)
    has_bias = tower.flag("attention_bias", False)
    one = block(hidden, inner, norms=6) - (0 if has_bias else 3 * hidden)  # two scales of layers
    if tower.flag("use_qk_norm", False):
        one += 2 * hidden
    merged = int(hidden / whole.number("downsample_ratio", 0.5) ** 2)
    return (
        _patches(tower, hidden, 14)
        + (_image_patches(tower, 448, 14) + 2) * hidden
        + tower.integer("num_hidden_layers", 24) * one
        + 2 * merged
        + linear(merged, width)
        + linear(width, width)
    )


def _glm4v(_whole: Fields, tower: Fields, _width: int) -> int:
    hidden, inner = tower.integer("hidden_size", 1536), tower.integer("intermediate_size", 13696)
    out, frames = tower.integer("out_hidden_size", 4096), tower.integer("temporal_patch_size", 2)
    merge = tower.integer("spatial_merge_size", 2) ** 2
    bias = tower.flag("attention_bias", False)
    one = block(hidden, out, gated=True, bias=False, norms=2) + bias * 4 * hidden
    return (
        _patches(tower, hidden, 14, frames=frames)
        + _image_patches(tower, 336, 14) * hidden
        + tower.integer("depth", 24) * one
        + 2 * hidden
        + linear(merge * hidden, out)
        + linear(out, out, bias=False)
        + 2 * out
        + 3 * linear(out, inner, bias=False)
    )


def _gemma4(_whole: Fields, tower: Fields, width: int) -> int:
    hidden, inner = tower.integer("hidden_size", 768), tower.integer("intermediate_size", 3072)
    heads = tower.integer("num_attention_heads", 12)
    head_dim = tower.integer("head_dim", 64)
    kv_heads = tower.integer("num_key_value_heads", heads)
    attention = 2 * (heads + kv_heads) * head_dim * hidden + 2 * head_dim
    one = attention + 3 * linear(hidden, inner, bias=False) + 4 * hidden
    return (
        2 * tower.integer("position_embedding_size", 10240) * hidden
        + _patches(tower, hidden, 16, bias=False)
        + tower.integer("num_hidden_layers", 16) * one
        + linear(hidden, width, bias=False)
    )


def _minimax_m3(whole: Fields, tower: Fields, width: int) -> int:
    hidden, inner = tower.integer("hidden_size", 1280), tower.integer("intermediate_size", 5120)
    frames = tower.integer("temporal_patch_size", 2)
    middle = whole.integer("projector_hidden_size", 6144)
    merged = tower.integer("spatial_merge_size", 2) ** 2 * width
    return (
        _patches(tower, hidden, 14, frames=frames, bias=False)
        + 2 * hidden
        + tower.integer("num_hidden_layers", 32) * block(hidden, inner)
        + linear(hidden, middle)
        + linear(middle, width)
        + linear(merged, middle)
        + linear(middle, width)
    )


TOWERS: Mapping[str, CountTower] = MappingProxyType(
    {
        "gemma3": _gemma3,
        "gemma4": _gemma4,
        "glm4v": _glm4v,
        "glm4v_moe": _glm4v,
        "internvl": _internvl,
        "kimi_k25": _kimi,
        "llama4": _llama4,
        "llava": _llava,
        "minimax_m3_vl": _minimax_m3,
        "mistral3": _mistral3,
        "qwen2_5_vl": _qwen2_5_vl,
        "qwen2_vl": _qwen2_vl,
        "qwen3_5": _qwen3_vl,
        "qwen3_5_moe": _qwen3_vl,
        "qwen3_vl": _qwen3_vl,
        "qwen3_vl_moe": _qwen3_vl,
    }
)
"""By the ``model_type`` of the model that holds the tower."""


def tower_elements(whole: Fields, width: int) -> int | None:
    """Return the elements of a model's vision tower and projector, None where none is described.

    Args:
        whole: the config of the model, whose ``model_type`` has a tower.
        width: hidden size of the language model.

    Raises:
        InputError: a value is missing or cannot be, or the tower is of a kind not known.
    """
    name = whole.text("model_type")
    if not whole.has("vision_config"):
        return None
    tower = whole.fields("vision_config")
    if name not in TOWERS:
        raise InputError(
            f"{tower.where}: the size of the vision tower of model_type {name!r} is not known; "
            "give --without-vision to plan its language model alone"
        )
    return TOWERS[name](whole, tower, width)

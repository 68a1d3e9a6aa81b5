"""Models as lists and descriptions show them: sizes, kinds of layers, cache, stored formats."""

from collections.abc import Collection
from typing import Any

from llmpq_sim.core.layers import (
    Attention,
    Dense,
    Experts,
    FeedForward,
    LatentAttention,
    LayerKind,
    Mixer,
)
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.units import gib
from llmpq_sim.io.bundled_models import bundled_models, bundled_record
from llmpq_sim.io.models import ReadModel

LONG_CONTEXT_TOKENS = 32_768
"""A context at which windows and recurrent states show in the cache."""

BILLION = 1e9


def kind_name(kind: LayerKind) -> str:
    """Return what a layer is made of, such as ``attention (window 128) + 128 experts``."""
    return f"{_mixer_name(kind.mixer)} + {_part_name(kind.feed_forward)}"


def _mixer_name(mixer: Mixer | None) -> str:
    if mixer is None:
        return "no mixer"
    if isinstance(mixer, Attention):
        return "attention" if mixer.window is None else f"attention (window {mixer.window})"
    if isinstance(mixer, LatentAttention):
        return "latent attention" if mixer.indexer is None else "latent attention (indexed)"
    return mixer.algorithm


def _part_name(part: FeedForward | None) -> str:
    if part is None:
        return "no feed-forward part"
    return "dense" if isinstance(part, Dense) else f"{part.count} experts"


def short_kinds(model: ModelSpec) -> str:
    """Return what the layers of a model are made of in few words, for a table."""
    mixers = dict.fromkeys(_short(kind.mixer) for kind in model.kinds if kind.mixer is not None)
    has_experts = any(isinstance(kind.feed_forward, Experts) for kind in model.kinds)
    return "+".join(mixers) + (" moe" if has_experts else "")


def _short(mixer: Mixer) -> str:
    if isinstance(mixer, Attention):
        return "full" if mixer.window is None else "window"
    return "latent" if isinstance(mixer, LatentAttention) else mixer.algorithm.split("-")[0]


def kinds_content(model: ModelSpec) -> list[dict[str, Any]]:
    """Return each kind of layer with how many layers are of it, and what one of them holds."""
    return [
        {
            "kind": kind_name(kind),
            "layers": layers,
            "parameters": kind.parameters,
            "active_parameters": kind.active_parameters,
            "cache_bytes_per_token": kind.cache_bytes(1, 1) - kind.cache_bytes(1, 0),
            "state_bytes": kind.cache_bytes(1, 0),
        }
        for kind, layers in zip(model.kinds, model.layers_by_kind, strict=True)
    ]


def runtime_says(model: ModelSpec, executed: Collection[str]) -> str:
    """Return ``yes`` where the torch runtime computes models of this family, else ``no``."""
    return "yes" if model.family in executed else "no"


def model_description(read: ReadModel, executed: Collection[str]) -> dict[str, Any]:
    """Return everything that planning knows of a model, as JSON content.

    Args:
        read: the model.
        executed: families that the torch runtime computes.
    """
    model = read.spec
    stored = read.stored
    return {
        "name": model.name,
        "hub": list(_hub_ids(model.name)),
        "family": model.family,
        "parameters": model.parameters,
        "active_parameters": model.active_parameters,
        "layers": model.layers,
        "hidden_size": model.hidden_size,
        "vocab_size": model.vocab_size,
        "context_tokens": model.max_positions,
        "kinds": kinds_content(model),
        "weight_bytes_16bit": 2 * model.parameters,
        "vision_bytes_16bit": model.extra_first_bytes,
        "kv_bytes_per_token_16bit": model.cache_bytes_per_token,
        "kv_bytes_of_32768_tokens": model.cache_bytes(1, LONG_CONTEXT_TOKENS),
        "fixed_state_bytes_per_sequence": model.state_bytes_per_sequence,
        "stored_formats": None
        if stored is None
        else {
            "source": stored.source,
            "formats": {name: stored.of_layers.count(name) for name in stored.of_layers},
            "not_understood": list(stored.unknown),
        },
        "runtime": runtime_says(model, executed),
        "notes": list(read.notes),
    }


def _hub_ids(name: str) -> tuple[str, ...]:
    return bundled_record(name).hub if name in bundled_models() else ()


def model_lines(content: dict[str, Any]) -> list[tuple[str, str]]:
    """Return a description as lines of a screen: what it says, and the figure with its unit."""
    stored = content["stored_formats"]
    formats = "16 bits" if stored is None else _counts(stored["formats"])
    lines = [
        ("model", f"{content['name']} ({content['family']})"),
        ("size", _billions(content["parameters"], content["active_parameters"])),
        ("layers", str(content["layers"])),
        *(("", f"{each['layers']} x {each['kind']}") for each in content["kinds"]),
        ("context", f"{content['context_tokens']} tokens"),
        ("weights", f"{gib(content['weight_bytes_16bit'])} GiB at 16 bits"),
        ("stored", formats),
        ("KV cache", f"{content['kv_bytes_per_token_16bit'] / 1024:.1f} KiB a token at 16 bits"),
        ("", f"{gib(content['kv_bytes_of_32768_tokens'])} GiB for 32768 tokens"),
    ]
    if content["fixed_state_bytes_per_sequence"]:
        state = content["fixed_state_bytes_per_sequence"] / 2**20
        lines.append(("state", f"{state:.1f} MiB a sequence, however long"))
    if content["vision_bytes_16bit"]:
        lines.append(("vision", f"{gib(content['vision_bytes_16bit'])} GiB on the first stage"))
    executed = "carried out" if content["runtime"] == "yes" else "planned, not carried out"
    lines.append(("runtime", f"{executed} by llmpq deploy"))
    return [*lines, *(("hub", each) for each in content["hub"][:1])]


def _counts(formats: dict[str, int]) -> str:
    return ", ".join(f"{count} layers {name}" for name, count in formats.items())


def _billions(parameters: int, active: int) -> str:
    total = f"{parameters / BILLION:.2f} B"
    return total if active == parameters else f"{total}, {active / BILLION:.2f} B for a token"

"""Models as plain data in our own files.

A model whose layers are all of one plain kind is a flat record of its sizes; others list their
kinds of layers, and which each layer is of.
"""

from dataclasses import asdict, dataclass
from typing import Annotated, Any

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, one_of, whole
from llmpq_sim.core.layers import Attention, Dense, LayerKind
from llmpq_sim.core.limits import MOST_LAYERS
from llmpq_sim.core.model import ModelSpec, dense_model
from llmpq_sim.core.records import Natural, Place, from_dict, to_dict

Dtype = Annotated[str, one_of(("fp16", "bf16"))]


@dataclass(frozen=True)
class _Alike:
    """A model whose layers are all alike: attention without a window, and an MLP."""

    name: str
    family: str
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    gated_mlp: bool
    tied_embeddings: bool
    position_rows: Natural
    bias_elements: Natural
    norm_elements: Natural
    dtype: Dtype


@dataclass(frozen=True)
class _OfKinds:
    """A model of layers of any kinds."""

    name: str
    family: str
    hidden_size: int
    vocab_size: int
    max_positions: int
    tied_embeddings: bool
    position_rows: Natural
    dtype: Dtype
    kinds: tuple[LayerKind, ...]
    kind_of_layer: tuple[Natural, ...]
    extra_first_bytes: Annotated[int, whole(0), Place.OPTIONAL] = 0


def model_to_dict(model: ModelSpec) -> dict[str, Any]:
    """Return a model as plain data that ``model_from_dict`` reads back exactly."""
    alike = _alike(model)
    if alike is not None:
        return to_dict(alike)
    names = _OfKinds.__dataclass_fields__
    return to_dict(_OfKinds(**{name: getattr(model, name) for name in names}))


def _alike(model: ModelSpec) -> _Alike | None:
    kind = model.kinds[0]
    mixer, mlp = kind.mixer, kind.feed_forward
    if not isinstance(mixer, Attention) or not isinstance(mlp, Dense):
        return None
    record = _Alike(
        name=model.name,
        family=model.family,
        layers=model.layers,
        hidden_size=model.hidden_size,
        intermediate_size=mlp.inner_size,
        heads=mixer.heads,
        kv_heads=mixer.kv_heads,
        head_dim=mixer.key_dim,
        vocab_size=model.vocab_size,
        max_positions=model.max_positions,
        gated_mlp=mlp.is_gated,
        tied_embeddings=model.tied_embeddings,
        position_rows=model.position_rows,
        bias_elements=kind.bias_elements,
        norm_elements=kind.norm_elements,
        dtype=model.dtype,
    )
    return record if dense_model(**asdict(record)) == model else None


def model_from_dict(fields: Fields) -> ModelSpec:
    """Return the model that ``model_to_dict`` made plain data of.

    Raises:
        InputError: a value is missing, unknown or cannot be.
    """
    if not fields.has("kinds"):
        return checked_model(dense_model(**asdict(from_dict(_Alike, fields))), fields.where)
    record = from_dict(_OfKinds, fields)
    names = _OfKinds.__dataclass_fields__
    model = ModelSpec(**{name: getattr(record, name) for name in names})
    return checked_model(model, fields.where)


def checked_model(model: ModelSpec, where: str) -> ModelSpec:
    """Return a model whose numbers fit each other.

    Args:
        model: as some file says.
        where: what messages call the file.

    Raises:
        InputError: they do not.
    """
    if model.layers > MOST_LAYERS:
        raise InputError(f"{where}: expected at most {MOST_LAYERS} layers, got {model.layers}")
    used = set(model.kind_of_layer)
    if not used or used != set(range(len(model.kinds))):
        raise InputError(
            f"{where}.kind_of_layer: expected the numbers of {len(model.kinds)} kinds, each of "
            f"them somewhere, got {sorted(used)}"
        )
    for kind in model.kinds:
        _check_kind(kind, model, where)
    return model


def _check_kind(kind: LayerKind, model: ModelSpec, where: str) -> None:
    if kind.hidden_size != model.hidden_size:
        raise InputError(
            f"{where}: expected layers of the model's hidden size, {model.hidden_size}, "
            f"got {kind.hidden_size}"
        )
    mixer = kind.mixer
    if isinstance(mixer, Attention) and mixer.heads % mixer.kv_heads:
        raise InputError(
            f"{where}: expected attention heads in groups of equal size, got {mixer.heads} heads "
            f"for {mixer.kv_heads} key-value heads"
        )

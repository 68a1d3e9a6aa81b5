"""Defaults of families where a config is silent: those of transformers' own classes."""

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType

from llmpq_sim.core.fields import Fields, check_header
from llmpq_sim.io.files import read_json
from llmpq_sim.io.resources import bundled_dir

FILE = "defaults.json"

ALWAYS_STATED = frozenset(
    (
        "d_model",
        "ffn_dim",
        "hidden_size",
        "intermediate_size",
        "max_seq_len",
        "n_embd",
        "n_head",
        "n_heads",
        "n_layer",
        "n_layers",
        "n_positions",
        "num_attention_heads",
        "num_hidden_layers",
        "vocab_size",
    )
)
"""Sizes that a config states, unless it is that of a part of another model."""


@cache
def _all() -> Mapping[str, Mapping[str, object]]:
    path = bundled_dir("cluster_profiles") / "models" / FILE
    with Fields(read_json(path), path.name) as fields:
        check_header(fields, "llmpq/model-defaults", 1)
        fields.text("source")
        families = fields.fields("defaults")
        names = families.names()
    return {name: MappingProxyType(families.fields(name).content()) for name in names}


def class_defaults(family: str) -> Mapping[str, object]:
    """Return every default of a family by its own names of keys; nothing where there are none."""
    return _all().get(family, {})


def stated(defaults: Mapping[str, object]) -> Mapping[str, object]:
    """Return defaults without the sizes that every config of a whole model states itself."""
    return {key: value for key, value in defaults.items() if key not in ALWAYS_STATED}

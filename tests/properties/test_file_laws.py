"""Laws of every file: round trips are exact, and garbage is one clear error."""

import json
from contextlib import suppress
from copy import deepcopy
from itertools import combinations
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.cluster import Cluster, ClusterDevice, Device, Link
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.records import from_dict, to_dict
from llmpq_sim.io.bundled_models import bundled_record
from llmpq_sim.io.clusters import (
    cluster_from_dict,
    cluster_from_yaml,
    cluster_to_dict,
    load_cluster,
)
from llmpq_sim.io.devices import device_types
from llmpq_sim.io.files import json_text, read_yaml, sha256_of
from llmpq_sim.io.model_records import model_from_dict, model_to_dict
from llmpq_sim.io.models import bundled_models, model_from_config
from llmpq_sim.io.parsing import parse_json, parse_yaml
from llmpq_sim.io.resources import bundled_dir

PROFILES = bundled_dir("cluster_profiles")
CARD = {"name": "a", "memory_gib": 1, "memory_gb_per_s": 1, "fp16_tflops": 1, "kernels": ["spec"]}
CARDS = {"devices": [CARD | {"formats": ["fp16"], "price_usd_per_hour": 1}]}

TEXTS = st.text(
    st.characters(exclude_categories=["Cs"]).filter(str.isprintable), min_size=1, max_size=12
)
COUNTS = st.integers(1, 10**12)
RATES = st.floats(1e-3, 1e18)
FRACTIONS = st.floats(1e-6, 1)
SCALARS = st.none() | st.booleans() | st.integers(-(10**18), 10**18) | TEXTS
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
TREES: st.SearchStrategy[Any] = st.recursive(
    SCALARS | NUMBERS,
    lambda below: st.lists(below, max_size=4) | st.dictionaries(TEXTS, below, max_size=4),
    max_leaves=20,
)
DEVICES = st.builds(
    Device,
    name=TEXTS,
    memory_bytes=COUNTS,
    memory_bytes_per_s=RATES,
    flops_per_s=RATES,
    multiprocessors=COUNTS,
    l2_bytes=COUNTS,
    compute_fraction=FRACTIONS,
    memory_fraction=FRACTIONS,
    formats=st.lists(st.sampled_from(list(FORMATS)), min_size=1, unique=True).map(tuple),
    kernels=st.lists(TEXTS, min_size=1, max_size=3, unique=True).map(tuple),
    source=TEXTS,
    price_usd_per_hour=st.none() | RATES,
    price_source=st.just("") | TEXTS,
)
LINKS = st.builds(Link, latency_s=st.floats(0, 1e3), bytes_per_s=RATES)


def read_model(name: str) -> object:
    return dict(bundled_record(name).config)


@st.composite
def clusters(draw: st.DrawFn) -> Cluster:
    names = draw(st.lists(TEXTS, min_size=1, max_size=5, unique=True))
    members = tuple(ClusterDevice(name, draw(DEVICES), draw(TEXTS)) for name in names)
    pairs = combinations(range(len(names)), 2)
    return Cluster(draw(TEXTS), members, {pair: draw(LINKS) for pair in pairs})


@st.composite
def llama_configs(draw: st.DrawFn) -> dict[str, Any]:
    kv_heads, group, head_dim = (draw(st.integers(1, 16)) for _ in range(3))
    return {
        "model_type": draw(st.sampled_from(["llama", "mistral", "qwen2", "qwen3", "gemma"])),
        "hidden_size": draw(st.integers(1, 4096)),
        "intermediate_size": draw(st.integers(1, 4096)),
        "num_attention_heads": kv_heads * group,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "num_hidden_layers": draw(st.integers(1, 1000)),
        "vocab_size": draw(st.integers(1, 10**6)),
        "max_position_embeddings": draw(st.integers(1, 10**6)),
        "tie_word_embeddings": draw(st.booleans()),
        "attention_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
    }


@given(TREES)
def test_json_is_read_back_as_it_was_written(tree: Any) -> None:
    assert parse_json(json_text(tree), "a.json") == tree
    assert json.loads(json_text(tree)) == tree


@given(st.dictionaries(TEXTS, TREES, max_size=5))
def test_the_digest_does_not_depend_on_the_order_of_keys(tree: dict[str, Any]) -> None:
    assert sha256_of(dict(reversed(tree.items()))) == sha256_of(tree)


@given(st.text() | st.text("[]{}:,-?!&*#|>%@`'\" \n\\abc019.e~"))
def test_any_text_is_read_or_refused(text: str) -> None:
    for parse in (parse_json, parse_yaml):
        with suppress(InputError):
            parse(text, "a")


@given(TREES)
def test_any_content_is_a_cluster_and_a_model_or_refused(tree: Any) -> None:
    with suppress(InputError):
        cluster_from_yaml(tree, "a.yaml")
    with suppress(InputError):
        model_from_config(tree, "a", "a.json")


@st.composite
def damaged(draw: st.DrawFn, content: Any) -> Any:
    """Draw the content with one of its parts replaced by anything."""
    content = deepcopy(content)
    place = content
    while True:
        key = draw(st.sampled_from(list(place) if isinstance(place, dict) else range(len(place))))
        if not place[key] or not isinstance(place[key], dict | list) or draw(st.booleans()):
            place[key] = draw(TREES)
            return content
        place = place[key]


@given(damaged(read_yaml(PROFILES / "clusters" / "paper-3.yaml")))
def test_a_damaged_cluster_file_is_refused_or_still_a_cluster(content: Any) -> None:
    with suppress(InputError):
        cluster = cluster_from_yaml(content, "a.yaml")
        assert cluster_from_dict(Fields(cluster_to_dict(cluster), "a")) == cluster


@given(damaged(CARDS))
def test_a_damaged_device_file_is_refused_or_still_devices(content: Any) -> None:
    with suppress(InputError):
        for device in device_types(Fields(content, "a.yaml"), "devices").values():
            assert from_dict(Device, Fields(to_dict(device), "a")) == device


@given(damaged(cluster_to_dict(load_cluster("a100-l40s"))))
def test_a_damaged_cluster_snapshot_is_refused_or_still_a_cluster(content: Any) -> None:
    with suppress(InputError):
        cluster = cluster_from_dict(Fields(content, "a"))
        assert cluster_from_dict(Fields(cluster_to_dict(cluster), "a")) == cluster


@given(st.sampled_from(bundled_models()).flatmap(lambda name: damaged(read_model(name))))
def test_a_damaged_config_is_refused_or_still_a_model(content: Any) -> None:
    with suppress(InputError):
        spec = model_from_config(content, "m", "config.json")
        assert model_from_dict(Fields(model_to_dict(spec), "a")) == spec


@given(clusters())
def test_a_cluster_survives_a_snapshot(cluster: Cluster) -> None:
    content = parse_json(json_text(cluster_to_dict(cluster)), "plan.json")
    assert cluster_from_dict(Fields(content, "plan.json.cluster")) == cluster


@given(st.lists(st.lists(st.tuples(st.sampled_from(["t4", "l4"]), st.integers(1, 3)), min_size=1)))
def test_every_pair_of_distinct_devices_has_one_link(nodes: list[list[tuple[str, int]]]) -> None:
    listed = [
        {"name": f"n{i}", "devices": [{"type": t, "count": c} for t, c in node], "link": "pcie-3"}
        for i, node in enumerate(nodes)
    ]
    header = {"schema": "llmpq/cluster", "version": 1, "name": "a", "between_nodes": "local"}
    with suppress(InputError):  # no node, or too many devices
        cluster = cluster_from_yaml(header | {"nodes": listed}, "a.yaml")
        names = [member.name for member in cluster.devices]
        assert len(set(names)) == len(names) == sum(count for node in nodes for _, count in node)
        assert set(cluster.links) == set(combinations(range(len(names)), 2))


def tensor_elements(config: dict[str, Any]) -> int:
    """Return the elements of all tensors of one layer, listed one by one."""
    h, f = config["hidden_size"], config["intermediate_size"]
    q = config["num_attention_heads"] * config["head_dim"]
    kv = config["num_key_value_heads"] * config["head_dim"]
    family = config["model_type"]
    elements = [q * h, kv * h, kv * h, h * q, f * h, f * h, h * f, h, h]
    if family == "qwen2":
        elements += [q, kv, kv]
    elif config["attention_bias"] and family != "mistral":
        elements += [q, kv, kv, h]
    if config["mlp_bias"] and family == "llama":
        elements += [f, f, h]
    if family == "qwen3":
        elements += [config["head_dim"]] * 2
    return sum(elements)


@given(llama_configs())
def test_a_layer_has_the_elements_of_its_tensors(config: dict[str, Any]) -> None:
    spec: ModelSpec = model_from_config(config, "m", "config.json")
    layer = spec.only_kind.parameters
    assert layer == tensor_elements(config)
    content = parse_json(json_text(model_to_dict(spec)), "plan.json")
    assert model_from_dict(Fields(content, "plan.json.model")) == spec

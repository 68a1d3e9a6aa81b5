"""Readings of cluster files."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.core.cluster import Cluster, Link
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.units import GIB, US
from llmpq_sim.io.clusters import (
    bundled_clusters,
    cluster_from_dict,
    cluster_from_yaml,
    cluster_to_dict,
    load_cluster,
    load_devices,
    load_links,
)
from llmpq_sim.io.parsing import parse_yaml
from llmpq_sim.io.profiles import bundled_profile, cluster_profiles

LAB = """
schema: llmpq/cluster
version: 1
name: lab
nodes:
  - name: old
    devices: [{type: t4, count: 2}, {type: card, names: [mine]}]
    link: pcie-3
  - name: new
    devices: [{type: t4}]
between_nodes: {latency_us: 30, gb_per_s: 10}
links:
  - {between: [mine, t4-0], latency_us: 5, gb_per_s: 20}
  - {between: [t4-2, mine], link: ethernet-25g}
device_types:
  - {name: card, memory_gib: 16, memory_gb_per_s: 500, fp16_tflops: 100}
"""


def lab(**changes: object) -> Any:
    content = parse_yaml(LAB, "lab.yaml")
    assert isinstance(content, dict)
    return content | changes


def read(**changes: object) -> Cluster:
    return cluster_from_yaml(lab(**changes), "lab.yaml")


def message(**changes: object) -> str:
    with pytest.raises(InputError) as caught:
        read(**changes)
    return str(caught.value)


def node(*devices: Mapping[str, object], **more: object) -> dict[str, object]:
    return {"name": "old", "devices": list(devices), "link": "pcie-3", **more}


def test_devices_are_numbered_by_kind_over_the_whole_cluster() -> None:
    members = [(member.name, member.node) for member in read().devices]
    assert members == [("t4-0", "old"), ("t4-1", "old"), ("mine", "old"), ("t4-2", "new")]


def test_a_link_is_the_nodes_or_the_networks_unless_given_for_the_pair() -> None:
    cluster, links = read(), load_links()
    assert cluster.link(0, 1) == links["pcie-3"]
    assert cluster.link(0, 3) == Link(30 * US, 10e9)
    assert cluster.link(2, 0) == Link(5 * US, 20e9)
    assert cluster.link(2, 3) == links["ethernet-25g"]


def test_a_kind_of_ones_own_replaces_the_bundled_one() -> None:
    t4 = {"name": "t4", "memory_gib": 14, "memory_gb_per_s": 300, "fp16_tflops": 60}
    changed = read(device_types=[t4], nodes=[node({"type": "t4"})], links=[])
    assert changed.devices[0].device.memory_bytes == 14 * 2**30
    assert load_devices()["t4"].memory_bytes > 14 * 2**30


def test_one_device_needs_no_link() -> None:
    alone = {"name": "a", "devices": [{"type": "t4"}]}
    content = {"schema": "llmpq/cluster", "version": 1, "name": "one", "nodes": [alone]}
    assert cluster_from_yaml(content, "one.yaml").links == {}


T4 = {"type": "t4"}
KINDS = ", ".join(load_devices())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"schema": "llmpq/plan"}, "lab.yaml.schema: expected llmpq/cluster, got 'llmpq/plan'"),
        (
            {"version": 2},
            "lab.yaml.version: expected 1, got 2; the file was written by another version of llmpq",
        ),
        (
            {"node": []},
            "lab.yaml: unknown keys ['node']; known are: between_nodes, device_types, links, name, "
            "nodes, schema, source, version",
        ),
        ({"nodes": []}, "lab.yaml.nodes: expected at least one node, got an empty list"),
        ({"nodes": {}}, "lab.yaml.nodes: expected a list, got a mapping"),
        ({"nodes": ["t4"]}, "lab.yaml.nodes[0]: expected a mapping, got 't4'"),
        ({"nodes": [node()]}, "lab.yaml.nodes[0].devices: expected at least one device, got none"),
        (
            {"nodes": [node(T4), node(T4)]},
            "lab.yaml.nodes: expected distinct names, got 'old' more than once",
        ),
        (
            {"nodes": [node(T4, T4 | {"count": 0})]},
            "lab.yaml.nodes[0].devices[1].count: expected a whole number of at least 1, got 0",
        ),
        (
            {"nodes": [node(T4 | {"count": 10**9})]},
            "lab.yaml.nodes[0].devices[0].count: expected at most 256, got 1000000000",
        ),
        (
            {"nodes": [node(T4 | {"count": 200}, T4 | {"count": 200})]},
            "lab.yaml: expected at most 256 devices, got more",
        ),
        (
            {"nodes": [node({"type": "v100"})]},
            "lab.yaml.nodes[0].devices[0].type: 'v100' leaves open which it is; "
            "there is v100-16g or v100-32g or v100-pcie-16g or v100-pcie-32g",
        ),
        (
            {"nodes": [node({"type": "xyz"})]},
            "lab.yaml.nodes[0].devices[0].type: no device is called 'xyz'; `llmpq list devices` "
            "names all, and device_types in a cluster file describes others (name, memory_gib, "
            "memory_gb_per_s, fp16_tflops)",
        ),
        (
            {"nodes": [node(T4 | {"memory_gb": 14})]},
            "lab.yaml.nodes[0].devices[0]: unknown keys ['memory_gb']; "
            "known are: count, memory_gib, names, reserved_gib, type",
        ),
        (
            {"nodes": [node(T4 | {"count": 2, "names": ["a"]})]},
            "lab.yaml.nodes[0].devices[0].names: expected as many names as devices, 2, got 1",
        ),
        (
            {"nodes": [node(T4, T4 | {"names": ["t4-0"]})]},
            "lab.yaml.nodes: expected distinct names, got 't4-0' more than once",
        ),
        (
            {"nodes": [node(T4 | {"memory_gib": 14, "reserved_gib": 14})]},
            "lab.yaml.nodes[0].devices[0].reserved_gib: expected less than the 14.0 GiB of t4, "
            "got 14",
        ),
        (
            {"nodes": [{"name": "old", "devices": [T4, T4]}]},
            "lab.yaml.nodes[0].link: expected a value, but it is missing",
        ),
        (
            {"nodes": [node(T4, link="pci-3")]},
            "lab.yaml.nodes[0].link: expected a kind of link, or {latency_us: ..., gb_per_s: ...}, "
            "got 'pci-3'; did you mean pcie-3 or pcie-5 or pcie-4?",
        ),
        (
            {"nodes": [node(T4, T4, link=3)]},
            "lab.yaml.nodes[0].link: expected a text, got 3",
        ),
        (
            {"nodes": [node(T4, links="pcie-3")]},
            "lab.yaml.nodes[0]: unknown keys ['links']; known are: devices, link, name",
        ),
        ({"between_nodes": None}, "lab.yaml.between_nodes: expected a value, but it is missing"),
        (
            {"links": [{"between": ["mine"], "link": "pcie-3"}]},
            "lab.yaml.links[0].between: expected two different devices, got mine",
        ),
        (
            {"links": [{"between": ["mine", "mine"], "link": "pcie-3"}]},
            "lab.yaml.links[0].between: expected two different devices, got mine, mine",
        ),
        (
            {"links": [{"between": ["mine", "t4-9"], "link": "pcie-3"}]},
            "lab.yaml.links[0].between: expected a device of the cluster, got 't4-9'; "
            "did you mean t4-2 or t4-1 or t4-0?",
        ),
        (
            {"links": [{"between": ["mine", "t4-0"], "link": "pcie-3", "gb_per_s": 1}]},
            "lab.yaml.links[0]: unknown keys ['gb_per_s']; known are: between, link",
        ),
        (
            {"links": [{"between": [a, b], "link": "pcie-3"} for a, b in (("mine", "t4-0"),) * 2]},
            "lab.yaml.links[1].between: expected each pair once, got it twice",
        ),
    ],
)
def test_a_bad_cluster_says_what_and_where(changes: dict[str, object], said: str) -> None:
    assert message(**changes) == said


def test_a_cluster_file_is_found_by_its_path(tmp_path: Path) -> None:
    path = tmp_path / "lab.yaml"
    path.write_text(LAB)
    assert load_cluster(str(path)) == read()


def test_a_missing_cluster_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no.yaml"
    with pytest.raises(InputError) as caught:
        load_cluster(str(path))
    assert str(caught.value) == f"cannot read {path}: No such file or directory"
    with pytest.raises(InputError) as caught:
        load_cluster("paper3")
    assert str(caught.value).startswith(
        "cluster: expected a bundled cluster, a .yaml file or devices such as 2xrtx-3090+1xt4, "
        "got 'paper3'; did you mean paper-3"
    )


@pytest.mark.parametrize("name", bundled_clusters())
def test_every_bundled_cluster_loads_and_survives_a_snapshot(name: str) -> None:
    cluster = load_cluster(name)
    content = json.loads(json.dumps(cluster_to_dict(cluster)))
    assert cluster.name == name
    assert len(cluster.links) == len(cluster.devices) * (len(cluster.devices) - 1) // 2
    assert cluster_from_dict(Fields(content, "plan.json.cluster")) == cluster


PAPER = {
    1: {"v100-32g": 1},
    2: {"a100-40g": 1},
    3: {"t4": 3, "v100-32g": 1},
    4: {"p100-12g": 3, "v100-32g": 1},
    5: {"t4": 4, "v100-32g": 2},
    6: {"v100-32g": 2, "a100-40g": 2},
    7: {"v100-32g": 4, "a100-40g": 4},
    8: {"v100-32g": 4, "a800-80g": 2},
    9: {"t4": 4},
    10: {"v100-32g": 4},
    11: {"a800-80g": 4},
}
PAPER_NODES = {1: 1, 2: 1, 3: 2, 4: 3, 5: 2, 6: 2, 7: 2, 8: 2, 9: 1, 10: 1, 11: 1}


@pytest.mark.parametrize("number", PAPER)
def test_the_papers_clusters_are_as_published(number: int) -> None:
    members = load_cluster(f"paper-{number}").devices
    kinds = [member.device.name for member in members]
    assert {kind: kinds.count(kind) for kind in kinds} == PAPER[number]
    assert len({member.node for member in members}) == PAPER_NODES[number]


def test_a_bad_snapshot_says_what_and_where() -> None:
    def said(**changes: object) -> str:
        content = cluster_to_dict(load_cluster("a100-l40s")) | changes
        with pytest.raises(InputError) as caught:
            cluster_from_dict(Fields(content, "plan.json.cluster"))
        return str(caught.value)

    links = cluster_to_dict(load_cluster("a100-l40s"))["links"]
    assert isinstance(links, list)
    assert said(links=links[1:]) == (
        "plan.json.cluster.links: expected a link between a100-sxm-0 and l40s-0, but it is missing"
    )
    assert said(devices=[]) == "plan.json.cluster.devices: expected at least one device, got none"
    assert said(links=[links[0] | {"bytes_per_s": 0}]) == (
        "plan.json.cluster.links[0].bytes_per_s: expected a positive number, got 0"
    )


def test_memory_of_a_card_makes_it_a_variant_with_the_kernels_of_its_kind() -> None:
    shared = {"type": "A100-SXM4-80GB", "reserved_gib": 9.3}
    first, second = read(
        nodes=[node(shared, {"type": "a100-sxm", "names": ["whole"]})], links=[]
    ).devices
    assert first.device.name == "a100-sxm-70gib"
    assert first.device.memory_bytes == 70 * GIB
    assert second.device.memory_bytes == load_devices()["a100-sxm"].memory_bytes
    profiles = cluster_profiles(read(nodes=[node(shared)], links=[]), None, {})
    assert profiles["a100-sxm-70gib"].kernels == bundled_profile(second.device, None).kernels
    assert replace(profiles["a100-sxm-70gib"], device="a100-sxm") == bundled_profile(
        second.device, None
    )


def test_a_plain_file_needs_no_header() -> None:
    content = lab()
    del content["schema"], content["version"], content["name"]
    assert cluster_from_yaml(content, "desk.yaml").name == "desk"
    content["version"] = 1
    with pytest.raises(InputError, match="schema: expected a text, but it is missing"):
        cluster_from_yaml(content, "desk.yaml")

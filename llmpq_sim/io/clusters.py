"""Cluster files: YAML of users, and plain data in our own files."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from pathlib import Path

from llmpq_sim.core.cluster import Cluster, ClusterDevice, Device, Link
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, check_header
from llmpq_sim.core.formats import check_distinct
from llmpq_sim.core.records import from_dict, to_dict
from llmpq_sim.core.units import GIB
from llmpq_sim.io.device_names import device_named
from llmpq_sim.io.devices import device_types, link_from_sheet, load_devices, load_links
from llmpq_sim.io.files import read_yaml
from llmpq_sim.io.inline_clusters import inline_content, is_inline
from llmpq_sim.io.resources import bundled_dir, bundled_names, is_path, unknown_name

__all__ = [
    "bundled_clusters",
    "cluster_from_dict",
    "cluster_from_yaml",
    "cluster_to_dict",
    "load_cluster",
    "load_devices",
    "load_links",
]

MOST_DEVICES = 256
YAML_ENDINGS = (".yaml", ".yml")

Pair = tuple[int, int]


def bundled_clusters() -> tuple[str, ...]:
    """Return the names of the bundled clusters."""
    return bundled_names("cluster_profiles", "clusters", ".yaml")


def load_cluster(name_or_path: str) -> Cluster:
    """Return a bundled cluster by name, the one in a YAML file, or one listed in a line.

    Raises:
        InputError: there is none, or the file says something that cannot be.
    """
    path = Path(name_or_path)
    if not is_path(name_or_path, YAML_ENDINGS):
        if is_inline(name_or_path):
            return cluster_from_yaml(inline_content(name_or_path, "--cluster"), "--cluster")
        if name_or_path not in bundled_clusters():
            expected = "a bundled cluster, a .yaml file or devices such as 2xrtx-3090+1xt4"
            raise unknown_name("cluster", expected, name_or_path, bundled_clusters())
        path = bundled_dir("cluster_profiles") / "clusters" / f"{name_or_path}.yaml"
    return cluster_from_yaml(read_yaml(path), path.name)


def cluster_from_yaml(content: object, where: str) -> Cluster:
    """Return the cluster that a parsed YAML file describes.

    Args:
        content: the parsed file; cluster_profiles/clusters has examples.
        where: what messages call the file.

    Raises:
        InputError: the file says something that cannot be.
    """
    with Fields(content, where) as fields:
        if fields.has("schema") or fields.has("version"):
            check_header(fields, "llmpq/cluster", 1)
        name = fields.text("name", where.partition(".")[0])
        fields.text("source", "given by the user")
        types = device_types(fields, "device_types")
        nodes = fields.each("nodes")
        members = _members(nodes, types, where)
        links = _links_by_default(fields, nodes, members)
        links |= _links_by_pair(fields.each("links", []), members)
        return Cluster(name, members, links)


# ---- devices


def _members(
    nodes: list[Fields], types: dict[str, Device], where: str
) -> tuple[ClusterDevice, ...]:
    if not nodes:
        raise InputError(f"{where}.nodes: expected at least one node, got an empty list")
    check_distinct([_node_name(node) for node in nodes], f"{where}.nodes")
    counts: Counter[str] = Counter()
    members: list[ClusterDevice] = []
    for node in nodes:
        groups = node.each("devices")
        if not groups:
            raise InputError(f"{node.where}.devices: expected at least one device, got none")
        for group in groups:
            members += _group(group, _node_name(node), types, counts)
            if len(members) > MOST_DEVICES:
                raise InputError(f"{where}: expected at most {MOST_DEVICES} devices, got more")
    check_distinct([member.name for member in members], f"{where}.nodes")
    return tuple(members)


def _node_name(node: Fields) -> str:
    return node.text("name")


def _group(
    group: Fields, node: str, types: dict[str, Device], counts: Counter[str]
) -> list[ClusterDevice]:
    """Return equal devices of one node, numbered over the whole cluster unless they have names."""
    with group:
        device = device_named(group.text("type"), f"{group.where}.type", types)
        device = _with_memory(group, device)
        kind = device.name
        count = group.integer("count", 1)
        if count > MOST_DEVICES:
            raise InputError(f"{group.where}.count: expected at most {MOST_DEVICES}, got {count}")
        first = counts[kind]
        counts[kind] += count
        names = group.texts("names", [f"{kind}-{first + i}" for i in range(count)])
        if len(names) != count:
            expected = f"as many names as devices, {count}"
            raise InputError(f"{group.where}.names: expected {expected}, got {len(names)}")
    return [ClusterDevice(name, device, node) for name in names]


def _with_memory(group: Fields, device: Device) -> Device:
    """Return a device with the memory that a group says it has, less what others take of it."""
    usable = device.memory_bytes
    if group.has("memory_gib"):
        usable = round(group.number("memory_gib") * GIB)
    if group.has("reserved_gib"):
        reserved = round(group.number("reserved_gib", positive=False) * GIB)
        if reserved >= usable:
            raise InputError(
                f"{group.where}.reserved_gib: expected less than the {usable / GIB:.1f} GiB of "
                f"{device.name}, got {reserved / GIB:g}"
            )
        usable -= reserved
    if usable == device.memory_bytes:
        return device
    name = f"{device.name}-{usable / GIB:.4g}gib"
    return replace(device, name=name, memory_bytes=usable, variant_of=device.profiled_as)


# ---- links


def _links_by_default(
    fields: Fields, nodes: list[Fields], members: tuple[ClusterDevice, ...]
) -> dict[Pair, Link]:
    """Return every pair's link: its node's within a node, ``between_nodes`` across nodes."""
    sizes = Counter(member.node for member in members)
    within: dict[str, Link | None] = {}
    for node in nodes:
        name = _node_name(node)
        within[name] = _link_if(node, "link", needed=sizes[name] > 1)
        node.check_all_read()
    across = _link_if(fields, "between_nodes", needed=len(nodes) > 1)
    links: dict[Pair, Link] = {}
    for first, second in combinations(range(len(members)), 2):
        is_within = members[first].node == members[second].node
        link = within[members[first].node] if is_within else across
        if link is not None:
            links[first, second] = link
    return links


def _link_if(fields: Fields, name: str, *, needed: bool) -> Link | None:
    return _link(fields, name) if needed or fields.has(name) else None


def _link(fields: Fields, name: str) -> Link:
    """Return a link given by the name of a bundled one, or by its figures."""
    if isinstance(fields.value(name), Mapping):
        return link_from_sheet(fields.fields(name))
    named, known = fields.text(name), load_links()
    if named not in known:
        expected = "a kind of link, or {latency_us: ..., gb_per_s: ...}"
        raise unknown_name(f"{fields.where}.{name}", expected, named, tuple(known))
    return known[named]


def _links_by_pair(listed: list[Fields], members: tuple[ClusterDevice, ...]) -> dict[Pair, Link]:
    """Return the links that a file gives to single pairs."""
    positions = {member.name: position for position, member in enumerate(members)}
    links: dict[Pair, Link] = {}
    for fields in listed:
        pair = _pair(fields, positions)
        if pair in links:
            raise InputError(f"{fields.where}.between: expected each pair once, got it twice")
        links[pair] = _link(fields, "link") if fields.has("link") else link_from_sheet(fields)
        fields.check_all_read()
    return links


def _pair(fields: Fields, positions: dict[str, int]) -> Pair:
    names = fields.texts("between")
    for name in names:
        if name not in positions:
            expected = "a device of the cluster"
            raise unknown_name(f"{fields.where}.between", expected, name, tuple(positions))
    if len(names) != 2 or names[0] == names[1]:
        found = ", ".join(names) or "none"
        raise InputError(f"{fields.where}.between: expected two different devices, got {found}")
    first, second = sorted(positions[name] for name in names)
    return first, second


# ---- our own files


def cluster_to_dict(cluster: Cluster) -> dict[str, object]:
    """Return a cluster as plain data in SI units, with every figure and every pair's link."""
    names = [member.name for member in cluster.devices]
    return {
        "name": cluster.name,
        "devices": [to_dict(member) for member in cluster.devices],
        "links": [
            {"between": [names[first], names[second]], **to_dict(link)}
            for (first, second), link in cluster.links.items()
        ],
    }


def cluster_from_dict(fields: Fields) -> Cluster:
    """Return the cluster that ``cluster_to_dict`` made plain data of.

    Raises:
        InputError: a value is missing, unknown or cannot be.
    """
    with fields:
        name = fields.text("name")
        members = tuple(from_dict(ClusterDevice, each) for each in fields.each("devices"))
        listed = fields.each("links")
    if not members:
        raise InputError(f"{fields.where}.devices: expected at least one device, got none")
    check_distinct([member.name for member in members], f"{fields.where}.devices")
    positions = {member.name: position for position, member in enumerate(members)}
    links = {_pair(each, positions): from_dict(Link, each) for each in listed}
    for pair in combinations(range(len(members)), 2):
        if pair not in links:
            between = " and ".join(members[position].name for position in pair)
            expected = f"a link between {between}"
            raise InputError(f"{fields.where}.links: expected {expected}, but it is missing")
    return Cluster(name, members, links)

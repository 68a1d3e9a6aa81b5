"""Cluster files made of profiled machines."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from llmpq_sim.core.cluster import Device, Link
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import share_times
from llmpq_sim.core.limits import MOST_DEVICES, check_count, check_name
from llmpq_sim.core.records import to_dict
from llmpq_sim.io.devices import DataSheet, LinkSheet
from llmpq_sim.io.profiles import load_profiles
from llmpq_sim.latency.profile import DeviceProfile

PROBE_BYTES = 64 * 1024
"""Message by which links are compared: the slower one is taken."""


def cluster_from_profiles(paths: Sequence[Path], name: str, count: int = 1) -> str:
    """Return the YAML of a cluster of the machines that profiles were measured on.

    All devices are on one node. Its link is the slowest that was timed.

    Args:
        paths: profiles of own measurements, one for each kind of device.
        name: of the cluster.
        count: devices of each kind.

    Raises:
        InputError: a file is no profile or says no machine, or no link was timed where one is
            needed.
    """
    profiles = load_profiles(paths)
    if not profiles:
        raise InputError("cluster: expected at least one profile, got none")
    check_name("--name", name)
    check_count("--count", count, MOST_DEVICES // len(profiles), "devices of each kind")
    devices = [_device(profile) for profile in profiles.values()]
    node: dict[str, Any] = {
        "name": "node-0",
        "devices": [{"type": device.name, "count": count} for device in devices],
    }
    if len(devices) * count > 1:
        node["link"] = to_dict(LinkSheet(**vars(_slowest_link(profiles))))
    content = {
        "schema": "llmpq/cluster",
        "version": 1,
        "name": name,
        "source": f"measured: {', '.join(profile.source for profile in profiles.values())}",
        "device_types": [to_dict(DataSheet(**vars(device))) for device in devices],
        "nodes": [node],
    }
    return cluster_yaml(content)


def cluster_yaml(content: Mapping[str, Any]) -> str:
    """Return the content of a cluster file as YAML."""
    text: str = yaml.dump(
        dict(content), Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=100
    )
    return text


class _Dumper(yaml.SafeDumper):
    """Writes what people would, but quotes every text that may look like a number.

    Our reader takes more for numbers than the library's does, such as ``1e3``.
    """


def _quoted(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    style = '"' if text[:1].isdigit() or text[:1] in "+-." else None
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style=style)


_Dumper.add_representer(str, _quoted)


def _device(profile: DeviceProfile) -> Device:
    """Return the kind of device that a profile was measured on, with the formats it times."""
    machine = profile.machine
    if machine is None:
        raise InputError(
            f"profile {profile.name}: expected the machine it was measured on, but it is missing; "
            "fit it again from the rows of llmpq profile, with the machine file beside them"
        )
    timed = {*profile.gemms}
    timed |= {name for name, other in profile.aliases.items() if share_times(name, other)}
    formats = tuple(name for name in machine.formats if name in timed)
    if not formats:
        raise InputError(
            f"profile {profile.name}: expected times of a format that its machine runs "
            f"({', '.join(machine.formats)}), got {', '.join(profile.formats)}"
        )
    return machine.as_device(profile.device, formats, "spec")


def _slowest_link(profiles: Mapping[str, DeviceProfile]) -> Link:
    links = [profile.link for profile in profiles.values() if profile.link is not None]
    if not links:
        raise InputError(
            f"profiles of {', '.join(profiles)}: expected a timed link between stages, got none; "
            "profile again, or write the cluster by hand"
        )
    return max(links, key=lambda link: link.transfer_s(PROBE_BYTES))

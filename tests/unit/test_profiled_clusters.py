from dataclasses import replace
from pathlib import Path

import pytest

from llmpq_sim.core.cluster import Cluster, Link
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.records import to_dict
from llmpq_sim.io.clusters import load_cluster
from llmpq_sim.io.files import write_json, write_text
from llmpq_sim.io.profiled_clusters import cluster_from_profiles
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.latency.spec import spec_profile
from tests.local_rows import local_machine

MACHINE = local_machine()
SLOW, FAST = Link(70.5e-6, 1.7e9), Link(30e-6, 2.9e9)


def profile_of(name: str, link: Link | None = SLOW) -> DeviceProfile:
    """Return a profile of the made-up machine in which int3 was not timed."""
    device = MACHINE.as_device(name, ("fp16", "int8", "int4"), "spec")
    aliases = {"bf16": "fp16", "int3": "int4"}
    return replace(spec_profile(device), aliases=aliases, machine=MACHINE, link=link)


def saved(folder: Path, *profiles: DeviceProfile) -> list[Path]:
    paths = [folder / f"{profile.device}.json" for profile in profiles]
    for path, profile in zip(paths, profiles, strict=True):
        write_json(path, to_dict(profile))
    return paths


def loaded(folder: Path, text: str) -> Cluster:
    path = folder / "lab.yaml"
    write_text(path, text)
    return load_cluster(str(path))


def test_a_cluster_has_the_machines_of_its_profiles(tmp_path: Path) -> None:
    paths = saved(tmp_path, profile_of("core"), profile_of("slow-core", FAST))
    cluster = loaded(tmp_path, cluster_from_profiles(paths, "lab"))
    assert cluster.name == "lab"
    assert [member.name for member in cluster.devices] == ["core-0", "slow-core-0"]
    for member, kind in zip(cluster.devices, ("core", "slow-core"), strict=True):
        exact = MACHINE.as_device(kind, ("bf16", "int8", "int4"), "spec")
        found = member.device
        assert found.memory_bytes_per_s == pytest.approx(exact.memory_bytes_per_s, rel=1e-15)
        assert found.flops_per_s == pytest.approx(exact.flops_per_s, rel=1e-15)
        assert found == replace(
            exact, memory_bytes_per_s=found.memory_bytes_per_s, flops_per_s=found.flops_per_s
        )


def test_its_link_is_the_slowest_that_was_timed(tmp_path: Path) -> None:
    profiles = profile_of("a", FAST), profile_of("b", SLOW), profile_of("c", None)
    cluster = loaded(tmp_path, cluster_from_profiles(saved(tmp_path, *profiles), "lab"))
    for link in cluster.links.values():
        assert link.latency_s == pytest.approx(SLOW.latency_s, rel=1e-12)
        assert link.bytes_per_s == pytest.approx(SLOW.bytes_per_s, rel=1e-12)
    assert len(cluster.links) == 3


def test_there_may_be_several_devices_of_each_kind(tmp_path: Path) -> None:
    paths = saved(tmp_path, profile_of("core"))
    cluster = loaded(tmp_path, cluster_from_profiles(paths, "lab", count=3))
    assert [member.name for member in cluster.devices] == ["core-0", "core-1", "core-2"]


def test_a_name_that_yaml_would_take_for_something_else_stays_a_name(tmp_path: Path) -> None:
    paths = saved(tmp_path, profile_of("123"), profile_of("yes"))
    cluster = loaded(tmp_path, cluster_from_profiles(paths, "1e3"))
    assert cluster.name == "1e3"
    assert [member.device.name for member in cluster.devices] == ["123", "yes"]


def test_a_single_device_needs_no_link(tmp_path: Path) -> None:
    paths = saved(tmp_path, profile_of("core", None))
    assert len(loaded(tmp_path, cluster_from_profiles(paths, "lab")).devices) == 1


def test_several_devices_need_one(tmp_path: Path) -> None:
    paths = saved(tmp_path, profile_of("core", None))
    with pytest.raises(InputError) as caught:
        cluster_from_profiles(paths, "lab", count=2)
    assert str(caught.value) == (
        "profiles of core: expected a timed link between stages, got none; profile again, or "
        "write the cluster by hand"
    )


def test_a_profile_without_a_machine_says_what_to_do(tmp_path: Path) -> None:
    paths = saved(tmp_path, replace(profile_of("core"), machine=None))
    with pytest.raises(InputError) as caught:
        cluster_from_profiles(paths, "lab")
    assert str(caught.value) == (
        "profile core/spec: expected the machine it was measured on, but it is missing; fit it "
        "again from the rows of llmpq profile, with the machine file beside them"
    )


def test_no_profile_is_no_cluster() -> None:
    with pytest.raises(InputError, match=r"^cluster: expected at least one profile, got none$"):
        cluster_from_profiles([], "lab")

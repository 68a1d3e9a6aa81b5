"""Readings of device and link types."""

import re
from typing import Any

import pytest

from llmpq_sim.core.cluster import RUNTIME_BYTES, Device, Link
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.records import from_dict, to_dict
from llmpq_sim.io.devices import device_types, link_from_sheet, load_devices, load_links
from llmpq_sim.io.files import read_yaml
from llmpq_sim.io.resources import bundled_dir

CARD = {"name": "card", "memory_gib": 16, "memory_gb_per_s": 500, "fp16_tflops": 100}


def read(**changes: object) -> Device:
    lab = Fields({"device_types": [CARD | changes]}, "lab.yaml")
    return device_types(lab, "device_types")["card"]


def message(**changes: object) -> str:
    with pytest.raises(InputError) as caught:
        read(**changes)
    return str(caught.value)


def link_message(content: dict[str, object]) -> str:
    with pytest.raises(InputError) as caught:
        link_from_sheet(Fields(content, "lab.yaml.nodes[0].link"))
    return str(caught.value)


def entries(file: str, key: str) -> list[dict[str, Any]]:
    content = read_yaml(bundled_dir("cluster_profiles") / file)
    assert isinstance(content, dict)
    return list(content[key])


def test_units_change_once() -> None:
    device = read(l2_mib=4)
    assert device.memory_bytes == 16 * 2**30
    assert device.memory_bytes_per_s == 500e9
    assert device.flops_per_s == 100e12
    assert device.l2_bytes == 4 * 2**20


def test_what_a_card_of_ones_own_need_not_say() -> None:
    device = read()
    assert (device.compute_fraction, device.memory_fraction) == (0.55, 0.75)
    assert device.formats == ("fp16", "int8", "int4", "int3")
    assert device.kernels == ("spec",)
    assert device.price_usd_per_hour is None


def test_what_a_runtime_takes_is_kept_only_where_it_is_not_as_usual() -> None:
    usual, light = read(), read(runtime_gib=0.25)
    assert (usual.runtime_bytes, light.runtime_bytes) == (RUNTIME_BYTES, 2**28)
    assert "runtime_bytes" not in to_dict(usual)
    assert to_dict(light)["runtime_bytes"] == 2**28
    for device in (usual, light):
        assert from_dict(Device, Fields(to_dict(device), "a")) == device


WHERE = "lab.yaml.device_types[0]"
KNOWN = (
    "arithmetic, compute_fraction, extra_formats, formats, fp16_tflops, kernels, l2_mib, "
    "memory_fraction, memory_gb_per_s, memory_gib, multiprocessors, name, price_source, "
    "price_usd_per_hour, "
    "runtime_gib, source"
)

MEMORY = "expected memory_gib, GiB as a driver reports them (a 16 GB card has about 15.6)"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"memory": 16000}, f"{WHERE}: {MEMORY}; got memory"),
        ({"memory_mb": 16000}, f"{WHERE}: {MEMORY}; got memory_mb"),
        ({"size": 16}, f"{WHERE}: unknown keys ['size']; known are: {KNOWN}"),
        ({"memory_gib": -16}, f"{WHERE}.memory_gib: expected a positive number, got -16"),
        ({"memory_gib": "16 GB"}, f"{WHERE}.memory_gib: expected a positive number, got '16 GB'"),
        ({"memory_gib": 1e12}, f"{WHERE}.memory_gib: expected 9.3e-10 to 9.3e+08, got 1e+12"),
        (
            {"fp16_tflops": None},
            f"{WHERE}.fp16_tflops: expected a positive number, but it is missing",
        ),
        (
            {"compute_fraction": 55},
            f"{WHERE}.compute_fraction: expected a number above 0 and at most 1, got 55",
        ),
        ({"formats": []}, f"{WHERE}.formats: expected at least one name, got an empty list"),
        (
            {"formats": ["fp16", "int7"]},
            f"{WHERE}.formats: expected a weight format ({', '.join(FORMATS)}), got 'int7'",
        ),
        (
            {"kernels": ["spec", "spec"]},
            f"{WHERE}.kernels: expected distinct names, got 'spec' more than once",
        ),
        (
            {"price_usd_per_hour": -1},
            f"{WHERE}.price_usd_per_hour: expected a positive number, got -1",
        ),
    ],
)
def test_a_bad_device_says_what_and_where(changes: dict[str, object], said: str) -> None:
    assert message(**changes) == said


def test_two_kinds_of_one_name_are_refused() -> None:
    with pytest.raises(InputError) as caught:
        device_types(Fields({"device_types": [CARD, CARD]}, "lab.yaml"), "device_types")
    assert str(caught.value) == (
        "lab.yaml.device_types: expected distinct names, got 'card' more than once"
    )


def test_a_link_without_latency_is_allowed() -> None:
    link = link_from_sheet(Fields({"latency_us": 0, "gb_per_s": 2}, "link"))
    assert link == Link(0.0, 2e9)
    assert link.transfer_s(4e9) == 2.0


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            {"latency_us": 5, "gbit_per_s": 100},
            "lab.yaml.nodes[0].link: expected gb_per_s, GB/s in one direction (8 Gbit are one GB); "
            "got gbit_per_s",
        ),
        (
            {"latency_us": -5, "gb_per_s": 1},
            "lab.yaml.nodes[0].link.latency_us: expected a number of at least 0, got -5",
        ),
        (
            {"latency_us": 5, "gb_per_s": 0},
            "lab.yaml.nodes[0].link.gb_per_s: expected a positive number, got 0",
        ),
    ],
)
def test_a_bad_link_says_what_and_where(content: dict[str, object], said: str) -> None:
    assert link_message(content) == said


def test_every_bundled_device_survives_a_snapshot() -> None:
    for name, device in load_devices().items():
        assert from_dict(Device, Fields(to_dict(device), name)) == device


def test_every_bundled_device_states_every_figure_and_its_source() -> None:
    figures = {"multiprocessors", "l2_mib", "compute_fraction", "memory_fraction"}
    for entry in entries("devices.yaml", "devices"):
        assert figures | {"kernels", "source"} <= entry.keys(), entry["name"]
        assert ("price_usd_per_hour" in entry) == ("price_source" in entry), entry["name"]


def test_every_bundled_link_has_a_source_that_says_how_it_is_known() -> None:
    listed = entries("links.yaml", "links")
    assert set(load_links()) == {entry["name"] for entry in listed}
    for entry in listed:
        assert entry["source"].startswith(("measured", "assumed")), entry["name"]


BF16_HOSTS = {"host-ddr5-12ch"}


def test_only_devices_with_the_arithmetic_have_bf16() -> None:
    older = re.compile(
        "p4|p40|p100|m40|v100|t4|gtx|rtx-20[678]0|titan|quadro|mi[56]0|rx-6|m[12]|host"
    )
    for name, device in load_devices().items():
        assert ("bf16" in device.formats) != bool(older.match(name) and name not in BF16_HOSTS), (
            name
        )


def test_every_device_keeps_16_bits_and_runs_without_measurements() -> None:
    for device in load_devices().values():
        assert "fp16" in device.formats
        assert "spec" in device.kernels


def test_memory_is_below_the_round_figure_on_the_box() -> None:
    boxes = {"t4": 16, "v100-32g": 32, "a100-40g": 40, "a100-sxm": 80, "l4": 24, "h200-sxm": 141}
    for name, box_gb in boxes.items():
        assert 0.9 * box_gb * 1e9 < load_devices()[name].memory_bytes < box_gb * 2**30


def test_the_caller_cannot_change_what_is_bundled() -> None:
    load_devices().clear()
    load_links().clear()
    assert "t4" in load_devices()
    assert "pcie-3" in load_links()

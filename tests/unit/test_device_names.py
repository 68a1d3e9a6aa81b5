"""Names of devices as drivers, lspci and people write them, and clusters in a line."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.clusters import load_cluster
from llmpq_sim.io.device_names import device_named, words
from llmpq_sim.io.devices import load_devices

WRITTEN = {
    "NVIDIA GeForce RTX 3090": "rtx-3090",
    "rtx3090": "rtx-3090",
    "3090 24GB": "rtx-3090",
    "GA102 [GeForce RTX 3090] (rev a1)": "rtx-3090",
    "Tesla T4": "t4",
    "NVIDIA A100-PCIE-40GB": "a100-40g-pcie",
    "NVIDIA A100 80GB PCIe": "a100-pcie",
    "NVIDIA A100-SXM4-80GB": "a100-sxm",
    "NVIDIA A100-SXM4-40GB": "a100-40g",
    "A100 SXM 80GB": "a100-sxm",
    "NVIDIA RTX 6000 Ada Generation": "rtx-6000-ada",
    "Quadro RTX 8000": "quadro-rtx-8000",
    "RTX A6000 48GB": "rtx-a6000",
    "a6000": "rtx-a6000",
    "Tesla V100-PCIE-32GB": "v100-pcie-32g",
    "NVIDIA H100 80GB HBM3": "h100-sxm",
    "NVIDIA H100 PCIe": "h100-pcie",
    "NVIDIA H200 NVL": "h200-nvl",
    "NVIDIA H200": "h200-sxm",
    "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition": "rtx-pro-6000-max-q",
    "NVIDIA GeForce RTX 4060 Ti 16GB": "rtx-4060-ti-16g",
    "4070ti super": "rtx-4070-ti-super",
    "rtx 4090D": "rtx-4090-d",
    "3080 12GB": "rtx-3080-12g",
    "AMD Instinct MI300X": "mi300x",
    "AMD Radeon RX 7900 XTX": "rx-7900-xtx",
    "Intel(R) Arc(TM) A770 Graphics": "arc-a770",
    "Ryzen AI Max+ 395": "strix-halo",
    "M2 Ultra 76-Core GPU 192GB": "m2-ultra",
    "M1 Max 32\u2011Core GPU 64GB": "m1-max",
}


@pytest.mark.parametrize("written", WRITTEN)
def test_a_name_as_it_is_written_finds_its_device(written: str) -> None:
    for each in (written, written.upper(), written.lower(), f"  {written} "):
        assert device_named(each, "type").name == WRITTEN[written]


@pytest.mark.parametrize(
    ("written", "several"),
    [
        ("A100", {"a100-40g", "a100-40g-pcie", "a100-pcie", "a100-sxm"}),
        ("A100 80GB", {"a100-pcie", "a100-sxm"}),
        ("h100", {"h100-pcie", "h100-sxm"}),
        ("NVIDIA GeForce RTX 4060 Ti", {"rtx-4060-ti-8g", "rtx-4060-ti-16g"}),
        ("RTX 2060", {"rtx-2060-12g"}),
    ],
)
def test_a_name_that_leaves_open_which_is_not_guessed(written: str, several: set[str]) -> None:
    with pytest.raises(InputError, match="leaves open which it is") as refused:
        device_named(written, "type")
    assert set(str(refused.value).partition("there is ")[2].split(" or ")) == several


@pytest.mark.parametrize(
    "written", ["NVIDIA GeForce RTX 4090 Laptop GPU", "RTX 3050 Ti", "GTX 1660"]
)
def test_no_neighbour_is_taken_for_a_device_that_is_not_there(written: str) -> None:
    with pytest.raises(InputError, match="no device is called") as refused:
        device_named(written, "lab.yaml.nodes[0].devices[0].type")
    assert "did you mean" not in str(refused.value)
    assert "device_types" in str(refused.value)


@pytest.mark.parametrize("name", load_devices())
def test_every_device_has_its_own_name_however_it_is_spaced(name: str) -> None:
    for each in (name, name.upper(), name.replace("-", " "), f"NVIDIA {name}"):
        assert device_named(each, "type").name == name


@given(st.permutations(["NVIDIA", "RTX", "PRO", "6000", "Blackwell", "Server", "Edition"]))
def test_the_order_of_words_is_nothing(parts: list[str]) -> None:
    assert device_named(" ".join(parts), "type").name == "rtx-pro-6000-server"


@given(st.text(max_size=40))
def test_any_text_has_words_and_finds_a_device_or_is_refused(text: str) -> None:
    assert all(words(text))
    try:
        found = device_named(text, "type").name
    except InputError as error:
        found = str(error)
    assert found in load_devices() or found.startswith("type: ")


def test_a_cluster_in_a_line_is_one_machine_whose_link_it_names() -> None:
    cluster = load_cluster("2xNVIDIA GeForce RTX 3090+1x4090")
    assert cluster.name == "2xrtx-3090+1xrtx-4090@pcie-4-host"
    assert [member.name for member in cluster.devices] == ["rtx-3090-0", "rtx-3090-1", "rtx-4090-0"]
    assert {member.node for member in cluster.devices} == {"node-0"}
    assert load_cluster("8 x h100 sxm").name == "8xh100-sxm@nvlink-4"
    assert load_cluster("2xt4@pcie-3").name == "2xt4@pcie-3"
    assert load_cluster("1xRyzen AI Max+ 395+1xt4").devices[0].device.name == "strix-halo"


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("2xt4@nvlink-9", "expected a kind of link"),
        ("0xt4", "expected a whole number of at least 1"),
        ("300xt4", "expected at most 256"),
        ("2xt4+1xbanana", "no device is called 'banana'"),
        ("2xt4+t4", "no device is called 't4+t4'"),
    ],
)
def test_a_bad_line_says_what_is_wrong(written: str, said: str) -> None:
    with pytest.raises(InputError, match="--cluster") as refused:
        load_cluster(written)
    assert said in str(refused.value)

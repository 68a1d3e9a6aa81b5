"""Clusters of the cards that nvidia-smi, rocm-smi and system_profiler list."""

import sys
from pathlib import Path

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.units import GIB
from llmpq_sim.io.card_listings import listed_cards
from llmpq_sim.io.clusters import load_cluster
from llmpq_sim.io.detected_clusters import detected_cluster
from llmpq_sim.io.files import write_text

TABLE = """\
Tue Dec  1 10:00:00 2026
+-----------------------------------------------------------------------------------------+
| NVIDIA-SMI 550.54.15              Driver Version: 550.54.15      CUDA Version: 12.4     |
|-----------------------------------------+------------------------+----------------------+
| GPU  Name                 Persistence-M | Bus-Id          Disp.A | Volatile Uncorr. ECC |
| Fan  Temp   Perf          Pwr:Usage/Cap |           Memory-Usage | GPU-Util  Compute M. |
|=========================================+========================+======================|
|   0  NVIDIA GeForce RTX 3090        Off |   00000000:01:00.0  On |                  N/A |
| 30%   45C    P8             25W /  350W |    2048MiB /  24576MiB |      0%      Default |
|                                         |                        |                  N/A |
+-----------------------------------------+------------------------+----------------------+
|   1  NVIDIA GeForce RTX 3090        Off |   00000000:02:00.0 Off |                  N/A |
| 30%   45C    P8             25W /  350W |       9MiB /  24576MiB |      0%      Default |
+-----------------------------------------+------------------------+----------------------+
| Processes:                                                                              |
|    0   N/A  N/A      1234      G   /usr/lib/xorg/Xorg                            300MiB |
"""
LISTED = """\
GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-5c0b7c67-0000)
GPU 1: NVIDIA A100-SXM4-80GB (UUID: GPU-5c0b7c67-0001)
"""
ROWS = """\
name, memory.total [MiB], memory.used [MiB]
NVIDIA GeForce RTX 4060 Ti, 16380 MiB, 700 MiB
NVIDIA GeForce RTX 3080, 12288 MiB, 3 MiB
Tesla T4, 15360 MiB, 0 MiB
NVIDIA GeForce RTX 3080, 10240 MiB, 3 MiB
"""
ROCM = """\
============================ ROCm System Management Interface ============================
GPU[0]		: Card Series: 		AMD Radeon RX 7900 XTX
GPU[0]		: Card Model: 		0x744c
GPU[0]		: VRAM Total Memory (B): 25753026560
GPU[0]		: VRAM Total Used Memory (B): 27308032
"""
ROCM_JSON = (
    '{"card0": {"VRAM Total Memory (B)": "205822885888", "VRAM Total Used Memory (B)": "0", '
    '"Card Series": "AMD Instinct MI300X OAM"}, "card1": {"VRAM Total Memory (B)": '
    '"205822885888", "VRAM Total Used Memory (B)": "0", "Card Series": "AMD Instinct MI300X OAM"}}'
)
APPLE = """\
Hardware:

    Hardware Overview:

      Chip: Apple M2 Max
      Memory: 64 GB

Graphics/Displays:

    Apple M2 Max:

      Chipset Model: Apple M2 Max
      Total Number of Cores: 38
"""


def detected(text: str, folder: Path) -> list[tuple[str, float]]:
    """Return kind and GiB of each device of the cluster that is made of a listing."""
    write_text(folder / "listing.txt", text)
    write_text(folder / "lab.yaml", detected_cluster(folder / "listing.txt", "lab"))
    members = load_cluster(str(folder / "lab.yaml")).devices
    return [(one.device.profiled_as, one.device.memory_bytes / GIB) for one in members]


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        (TABLE, ["rtx-3090", "rtx-3090"]),
        (LISTED, ["a100-sxm", "a100-sxm"]),
        (ROWS, ["rtx-4060-ti-16g", "rtx-3080-12g", "t4", "rtx-3080"]),
        (ROCM, ["rx-7900-xtx"]),
        (ROCM_JSON, ["mi300x", "mi300x"]),
        (APPLE, ["m2-max"]),
    ],
    ids=["table", "list", "csv", "rocm", "rocm-json", "apple"],
)
def test_a_listing_becomes_a_cluster(text: str, kinds: list[str], tmp_path: Path) -> None:
    assert [kind for kind, _ in detected(text, tmp_path)] == kinds


def test_what_is_taken_of_a_card_is_not_planned_with(tmp_path: Path) -> None:
    (_, first), (_, second) = detected(TABLE, tmp_path)
    assert first == pytest.approx(second - 2)


def test_a_mac_with_less_memory_lends_three_quarters_of_it(tmp_path: Path) -> None:
    assert detected(APPLE, tmp_path) == [("m2-max", 48.0)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("hello\n", "got no card that is listed"),
        (TABLE.replace("GeForce RTX 3090   ", "Graphics Device...  "), "is cut; give the output"),
        ("Frobnicator 9000, 1000, 1\n", "no device is called 'Frobnicator 9000'"),
        ("NVIDIA H100, 81559, 1\n", "leaves open which it is; there is h100-pcie or h100-sxm"),
        ("NVIDIA GeForce RTX 4090 Laptop GPU, 16376, 1\n", "no device is called"),
    ],
)
def test_a_listing_that_cannot_be_read_says_why(text: str, said: str, tmp_path: Path) -> None:
    write_text(tmp_path / "listing.txt", text)
    with pytest.raises(InputError, match=r"listing\.txt: ") as refused:
        detected_cluster(tmp_path / "listing.txt", "lab")
    assert said in str(refused.value)


def test_a_machine_without_tools_says_what_to_paste(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(InputError, match=r"detect: expected one of nvidia-smi, .* --from"):
        detected_cluster(None, "lab")


def test_the_tool_of_this_machine_is_asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    tool = tmp_path / "nvidia-smi"
    tool.write_text(f"#!{sys.executable}\nprint('NVIDIA L4, 23034, 4')\n", encoding="utf-8")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "type: l4" in detected_cluster(None, "lab")
    tool.write_text(f"#!{sys.executable}\nraise SystemExit('no driver')\n", encoding="utf-8")
    with pytest.raises(InputError, match="nvidia-smi: ended with 1: no driver"):
        detected_cluster(None, "lab")


def test_cards_keep_their_order() -> None:
    assert [card.name for card in listed_cards(ROWS, "x")][:2] == [
        "NVIDIA GeForce RTX 4060 Ti",
        "NVIDIA GeForce RTX 3080",
    ]

"""README against the code: its commands print what it shows, its example runs."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from llmpq_sim.io.clusters import cluster_from_yaml, load_cluster, load_devices
from llmpq_sim.io.files import parse_yaml
from tests.e2e.commands import llmpq

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.DOTALL | re.MULTILINE)


def without_seconds(text: str) -> str:
    """Return text without how long a search took, the one figure that changes between runs."""
    return re.sub(r"^(search    )[\d.]+ m?s", r"\1-", text, flags=re.MULTILINE)


def test_commands_print_what_the_readme_shows(tmp_path: Path) -> None:
    shown_blocks = blocks("console")
    assert len(shown_blocks) >= 3
    for block in shown_blocks:  # one folder, in order: later ones look at the first one's plan
        command, shown = block.split("\n", 1)
        program, *arguments = shlex.split(command.removeprefix("$ "))
        assert program == "llmpq"
        done = llmpq(*arguments, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert without_seconds(done.stdout) == without_seconds(shown), command


@pytest.mark.parametrize("block", blocks("python"))
def test_the_library_example_runs(tmp_path: Path, block: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", block], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Plan(stages=(Stage(")


@pytest.mark.parametrize("block", blocks("yaml"))
def test_the_cluster_example_is_a_cluster(block: str) -> None:
    cluster = cluster_from_yaml(parse_yaml(block, "lab.yaml"), "lab.yaml")
    kinds = [member.device.profiled_as for member in cluster.devices]
    assert kinds == ["rtx-3090", "rtx-3090", "rtx-4090"]


def test_what_the_readme_says_of_devices_is_so() -> None:
    (count,) = re.findall(r"each of the (\d+) of `llmpq list devices`", README)
    assert int(count) == len(load_devices())
    (inline,) = re.findall(r"`--cluster '([^']+)'`, with a link", README)
    assert load_cluster(inline).name == f"{inline}@pcie-4-host"


def test_every_command_of_the_readme_exists(tmp_path: Path) -> None:
    known = (
        "search|plan|simulate|verify|fit|list|deploy|compare|profile|cluster|detect|quality|reproduce"
        "|demo|describe"
    )
    commands = set(re.findall(rf"llmpq ({known})\b", README))
    shown = llmpq("--help", cwd=tmp_path).stdout
    listed = set(re.findall(r"^  (\w+) {2,}", shown, flags=re.MULTILINE))
    assert commands == listed


def test_what_the_readme_says_was_measured_stands_in_the_log() -> None:
    log = (ROOT / "docs/log.md").read_text(encoding="utf-8")
    table = log[log.index("| another profile of the same hour, runs |") :].split("\n\n", 1)[0]
    errors = re.findall(r"^\| [^|]+ \| [+-]([\d.]+) % \|", table, flags=re.MULTILINE)
    *usual, busy, slowed = sorted(errors, key=float)
    shown = " ".join(README.split())
    assert len(usual) == 9
    assert f"nine were predicted within {usual[0]} to {usual[-1]} %" in shown
    assert f"one beside much other work within {busy} % and one within {slowed} %" in shown
    (row,) = re.findall(
        r"^\| plan found \| [\d.]+ \| [\d.]+ \| \+([\d.]+) % \|$", log, re.MULTILINE
    )
    assert f"bfloat16 instructions the one undisturbed run was off by {row} %" in shown


def test_what_the_readme_says_batch_invariance_costs_stands_in_the_log() -> None:
    log = " ".join((ROOT / "docs/log.md").read_text(encoding="utf-8").split())
    assert "prompts take 1.1 to 2 times as long, decodes 0.8 to 2.3 times" in README
    assert "Prompts take 1.1 to 2 times as long; decodes 0.8 to 1.6 times where they are" in log
    assert "several, and up to 2.3 times where one is alone" in log

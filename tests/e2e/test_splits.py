"""Layers that the user decides on, through the installed command, as docs/splits.md shows it."""

import json
import re
import shlex
from pathlib import Path

import pytest

from tests.e2e.commands import called, llmpq
from tests.e2e.test_readme import without_seconds

PAGE = (Path(__file__).resolve().parents[2] / "docs/splits.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```console\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)

SMALL = (
    "--model", "opt-1.3b", "--cluster", "t4-v100-a100", "--kernels", "spec",
    "--batch", "8", "--prompt-tokens", "64", "--output-tokens", "16",
)  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: block.split(" --", 1)[0][2:])
def test_a_command_prints_what_the_page_shows(tmp_path: Path, block: str) -> None:
    command, shown = block.split("\n", 1)
    done = llmpq(*shlex.split(command)[2:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert without_seconds(done.stdout) == without_seconds(shown)


def test_a_plan_by_hand_is_simulated_verified_and_compared(tmp_path: Path) -> None:
    split = ("--layers", "14,0,10", "--layer-formats", "formats.txt")
    (tmp_path / "formats.txt").write_text("14 x int8\n10 x fp16\n")
    done = llmpq("plan", *SMALL, *split, "--json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    written = json.loads(done.stdout)
    assert written["pins"]["layers"] == [14, 10]
    assert written["pins"]["formats"] == ["int8"] * 14 + ["fp16"] * 10
    assert "without_pins" not in written
    simulated = json.loads(llmpq("simulate", "plan.json", "--json", cwd=tmp_path).stdout)
    assert simulated["makespan_s"] == written["predicted"]["makespan_s"]
    assert llmpq("verify", "plan.json", cwd=tmp_path).returncode == 0
    trace = ("--lengths", "D(100,10)", "--requests", "20", "--json")
    served = json.loads(llmpq("simulate", "plan.json", *trace, cwd=tmp_path).stdout)
    assert served["finished"] == 20

    again = llmpq("search", *SMALL, *split, "--out", "s.json", "--json", cwd=tmp_path)
    assert again.returncode == 0, again.stderr
    found = json.loads(again.stdout)
    assert found["pins"] == written["pins"]
    rates = [each["predicted"]["tokens_per_s"] for each in (found, written)]
    assert rates[0] >= rates[1] * (1 - 1e-9)
    assert found["without_pins"]["tokens_per_s"] >= rates[0]
    assert not (tmp_path / "s.json.checkpoint.json").exists()
    assert llmpq("verify", "s.json", cwd=tmp_path).returncode == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            ("search", "--layers", "12,6", "--trace", "azure-conv", "--rate", "1"),
            "in the same proportions: 16,8",
        ),
        (("search", "--layers", "24", "--resume"), "--resume: a search with --layers keeps no"),
        (("search", "--device-order", "t4-0"), "--device-order: give --layers as well"),
        (("plan", "--layers", "12,6"), "in the same proportions: 16,8"),
    ],
    ids=lambda part: str(part)[:40],
)
def test_what_does_not_go_together_is_said(
    tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    done = called(*arguments, *SMALL[:4], cwd=tmp_path)
    assert done.returncode == 1
    assert message in done.stderr
    assert done.stderr.count("\n") == 1

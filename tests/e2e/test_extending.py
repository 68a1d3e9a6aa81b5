"""EXTENDING.md carried out: its files written, its package installed, its commands run."""

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import NamedTuple

import pytest

from llmpq_sim.io.devices import load_devices
from tests.e2e.commands import LLMPQ

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "EXTENDING.md").read_text(encoding="utf-8")
SOURCES = ("llmpq.py", "cli.py", "llmpq_sim", "runtimes", "traces", "cluster_profiles")


class Recipe(NamedTuple):
    """A command of the page and what its output has to contain."""

    command: str
    shown: tuple[str, ...]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, flags=re.DOTALL | re.MULTILINE)


def files() -> dict[str, str]:
    """Return the files of the page by name."""
    found = {}
    for language in ("yaml", "toml", "python", "json"):
        for block in blocks(language):
            head, content = block.split("\n", 1)
            found[head.removeprefix("# file: ")] = content
    return found


def recipes() -> list[Recipe]:
    found = []
    for block in blocks("console"):
        command, *shown = block.rstrip().split("\n")
        found.append(Recipe(command.removeprefix("$ "), tuple(shown)))
    return found


def patched_file(text: str, patch: str) -> str:
    """Return a file with the lines that a patch without line numbers adds, at their contexts."""
    for part in patch.split("@@\n")[1:]:
        lines = part.splitlines()
        before = "\n".join(line[1:] for line in lines if line[0] == " ")
        after = "\n".join(line[1:] for line in lines)
        assert text.count(before) == 1, f"not there, or not unique: {before}"
        text = text.replace(before, after)
    return text


@pytest.fixture(name="house", scope="module")
def _house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with llmpq as the page patches it, and with the files of the page."""
    folder = tmp_path_factory.mktemp("house")
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy2
        copy(ROOT / name, folder / name)
    for copied in [folder, *folder.rglob("*")]:  # of a checkout that is only read
        copied.chmod(copied.stat().st_mode | stat.S_IWUSR)
    for patch in blocks("diff"):
        patched = folder / patch.splitlines()[1].removeprefix("+++ b/")
        patched.write_text(patched_file(patched.read_text("utf-8"), patch), encoding="utf-8")
    for name, content in files().items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    install(folder)
    return folder


def install(folder: Path) -> None:
    """Give the package the metadata that pip would write for its pyproject.toml."""
    project = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))["project"]
    facts = folder / "llmpq_house-1.0.dist-info"
    facts.mkdir()
    header = f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n"
    (facts / "METADATA").write_text(header)
    lines = []
    for group, points in project["entry-points"].items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (facts / "entry_points.txt").write_text("\n".join(lines) + "\n")


def run(folder: Path, command: str) -> "subprocess.CompletedProcess[str]":
    program, *arguments = shlex.split(command)
    programs = {"llmpq": [str(LLMPQ)], "python": [sys.executable]}
    return subprocess.run(
        [*programs[program], *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(folder), "COLUMNS": "88", "NO_COLOR": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def test_every_recipe_does_what_the_page_shows(house: Path) -> None:
    """In their order, for some read the plans of others."""
    for recipe in recipes():
        done = run(house, recipe.command)
        assert done.returncode == 0, f"{recipe.command}\n{done.stdout}\n{done.stderr}"
        for line in recipe.shown:
            assert line in done.stdout, recipe.command


def test_a_device_may_ship_as_its_entry_stands(house: Path) -> None:
    bundled = house / "cluster_profiles/devices.yaml"
    shipped = bundled.read_text("utf-8") + (
        "  - {name: house-card, memory_gib: 15.6, memory_gb_per_s: 448, fp16_tflops: 90}\n"
    )
    bundled.write_text(shipped, encoding="utf-8")
    done = run(house, "llmpq list devices --json")
    assert done.returncode == 0, done.stderr
    names = [device["name"] for device in json.loads(done.stdout)["devices"]]
    assert names == [*load_devices(), "house-card"]


def test_a_cluster_ships_by_lying_where_the_others_do(house: Path) -> None:
    shutil.copy(house / "workshop.yaml", house / "cluster_profiles/clusters/workshop.yaml")
    done = run(house, "llmpq list clusters")
    assert done.returncode == 0, done.stderr
    assert "2 x house-card, 1 x rtx-3090" in done.stdout


def test_the_page_names_files_that_exist() -> None:
    named = set(re.findall(r"`((?:llmpq_sim|runtimes|tests|cluster_profiles)/[\w/.]+)`", PAGE))
    assert len(named) > 10
    assert sorted(name for name in named if not (ROOT / name).exists()) == []

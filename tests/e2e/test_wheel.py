"""The wheel in an environment of its own: what it puts there, and that everything runs from it."""

import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a wheel of this checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    build = "from hatchling.build import build_wheel; import sys; build_wheel(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", build, str(folder)], cwd=ROOT, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (made,) = folder.glob("*.whl")
    return made


@pytest.fixture
def program(installed: list[str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return how to run the wheel's command, whatever modules are found from here."""
    monkeypatch.delenv("PYTHONPATH", raising=False)
    return installed


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Return the wheel's command in an environment with this one's libraries beside it."""
    home = tmp_path_factory.mktemp("venv")
    venv.create(home, with_pip=False)
    (site,) = home.glob("lib/python*/site-packages")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    libraries = [path for path in sys.path if path.endswith("site-packages")]
    (site / "zz_libraries.pth").write_text("\n".join(libraries) + "\n", encoding="utf-8")
    return [str(home / "bin" / "python"), "-m", "llmpq"]


def test_it_puts_only_names_of_its_own_beside_other_packages(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        entries = archive.read(next(name for name in names if name.endswith("entry_points.txt")))
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.startswith("llmpq")} == set()
    assert {"llmpq.py", "llmpq.pth", "llmpq_sim"} < top
    assert b"llmpq = llmpq:main" in entries
    shipped = {name.removeprefix("llmpq_sim/_modules/") for name in names}
    sources = [*ROOT.glob("runtimes/**/*.py"), *ROOT.glob("llmpq_sim/**/*.py"), ROOT / "cli.py"]
    assert {str(path.relative_to(ROOT)) for path in sources} <= shipped


def test_commands_run_from_another_folder(program: list[str], tmp_path: Path) -> None:
    (tmp_path / "runtimes").mkdir()
    (tmp_path / "runtimes" / "__init__.py").write_text("raise SystemExit('wrong one')\n")

    def said(*arguments: str) -> str:
        done = subprocess.run(
            [*program, *arguments], cwd=tmp_path, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert said("--version").startswith("llmpq ")
    search = ("search", "--model", "opt-125m", "--cluster", "paper-9", "--kernels", "spec")
    assert "Wrote plan.json" in said(*search, "--batch", "4", "--generations", "0")
    assert "tokens/s" in said("deploy", "plan.json", "--runtime", "simulated", "--compare")


def test_its_modules_are_found_by_every_process(program: list[str], tmp_path: Path) -> None:
    code = "import cli, runtimes.base; print(cli.__file__, runtimes.base.__file__)"
    done = subprocess.run(
        [program[0], "-c", code], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert all("/llmpq_sim/_modules/" in path for path in done.stdout.split())

"""Layers, packages and first lines of modules, and a command that starts light."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "llmpq_sim"

LAYERS = (
    ("core",),  # nouns: what is given, decided and measured
    ("latency", "quality", "workloads"),  # estimates: pure functions of the data
    ("simulator",),  # what would happen
    ("search",),  # what to decide
    ("io",),  # files of others and our own
    ("api",),  # plan, simulate, replay, verify, predict
    ("report",),  # screens, JSON, pictures
    ("paper",),  # LLM-PQ's evaluation
    ("commands",),  # parse, call, print
)
"""The layers of llmpq_sim, lowest first; above them are runtimes and cli."""

HEAVY = ("torch", "sklearn", "scipy", "matplotlib", "pyarrow", "joblib", "numpy", "rich", "simpy")

MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path.name != "__init__.py")
SOURCES = [*MODULES, *sorted((ROOT / "runtimes").rglob("*.py")), ROOT / "cli.py"]
TESTS = sorted((ROOT / "tests").rglob("*.py"))
PAGE = ROOT / "docs/architecture.md"
BASES = (ROOT, PACKAGE, ROOT / "runtimes")
QUESTION_WORDS = {"How", "What", "Which", "Where", "When", "Why", "Who", "Whose", "Do", "Does"}


def layer_of(name: str) -> int:
    """Return the layer of a part of llmpq_sim."""
    return next(number for number, parts in enumerate(LAYERS) if name in parts)


def part_of(path: Path) -> str:
    """Return the top-level module or package of llmpq_sim that a file belongs to."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported_parts(path: Path) -> set[str]:
    """Return the parts of llmpq_sim that a file imports, anywhere in it."""
    parts = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        parts |= {name.split(".")[1] for name in names if name.startswith("llmpq_sim.")}
    return parts


def test_every_part_has_a_layer_and_every_layer_a_part() -> None:
    assert {part_of(path) for path in MODULES} == {part for layer in LAYERS for part in layer}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_point_down(path: Path) -> None:
    own = part_of(path)
    above = [part for part in imported_parts(path) if part != own]
    assert [part for part in above if layer_of(part) >= layer_of(own)] == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_is_small_and_says_what_it_answers(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    tree = ast.parse(text)
    assert ast.get_docstring(tree)
    assert text.count("\n") <= 400
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    for node in ast.walk(tree):
        if isinstance(node, functions) and node.end_lineno is not None:
            docstring = (ast.get_docstring(node) or "").count("\n")
            assert node.end_lineno - node.lineno + 1 - docstring <= 45, node.name


def names_the_thing(path: Path) -> bool:
    """Return whether a module's first line is a whole sentence or phrase, and no question."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    if docstring is None:
        return path in TESTS
    first_line, *rest = docstring.split("\n")
    asks = "?" in first_line or first_line.split()[0] in QUESTION_WORDS
    return first_line.endswith(".") and not asks and (not rest or not rest[0])


def test_first_lines_of_modules_name_the_thing() -> None:
    assert [str(path) for path in [*SOURCES, *TESTS] if not names_the_thing(path)] == []


def test_the_architecture_page_lists_every_package_with_its_first_line() -> None:
    page = PAGE.read_text(encoding="utf-8")
    for path in [*PACKAGE.rglob("__init__.py"), *(ROOT / "runtimes").rglob("__init__.py")]:
        docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
        first_line = docstring.splitlines()[0]
        assert f"- `{path.parent.relative_to(ROOT)}`: {first_line}\n" in page


def test_every_folder_with_modules_is_a_package() -> None:
    assert [path for path in SOURCES[:-1] if not (path.parent / "__init__.py").exists()] == []


def test_the_paths_on_the_architecture_page_exist() -> None:
    page = PAGE.read_text(encoding="utf-8")
    paths = re.findall(r"`([a-z_]+(?:/[a-z_.]+)+/?)`", page)
    assert len(paths) > 40
    for path in paths:
        places = [base / name for base in BASES for name in (path, f"{path}.py")]
        assert any(place.exists() for place in places), path


def test_the_command_line_imports_nothing_heavy() -> None:
    code = f"import sys, cli; print(sorted(set(sys.modules) & set({HEAVY})))"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "[]"


def test_a_simulated_deployment_needs_no_pytorch() -> None:
    modules = "runtimes.deployment.deploy, runtimes.simulated, runtimes.deployment.report"
    code = f"import sys, {modules}; print('torch' in sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert loaded.stdout.strip() == "False"

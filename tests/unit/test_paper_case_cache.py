"""Case cache: kept until the code or the inputs change."""

import json
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.paper.case_cache import case_sha256, kept_results, sources_sha256
from llmpq_sim.paper.cases import Case

SCHEMA = "llmpq/test"
CASE = Case(1, "main", 0.8, "gptq-2023")


class Finder:
    """Counts how often results were found."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> list[dict[str, Any]]:
        self.calls += 1
        return [{"call": self.calls}]


def test_results_are_found_once_for_each_hash(tmp_path: Path) -> None:
    path, find = tmp_path / "case.json", Finder()
    for sha256, call in (("a", 1), ("a", 1), ("b", 2), ("b", 2), ("a", 3)):
        assert kept_results(path, SCHEMA, sha256, find) == [{"call": call}]
    assert json.loads(path.read_text(encoding="utf-8"))["sha256"] == "a"


def test_nothing_is_kept_without_a_file() -> None:
    find = Finder()
    assert kept_results(None, SCHEMA, "a", find) == [{"call": 1}]
    assert kept_results(None, SCHEMA, "a", find) == [{"call": 2}]


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "case.json"
    kept_results(path, SCHEMA, "a", Finder())
    with pytest.raises(InputError, match=r"case.json"):
        kept_results(path, "llmpq/other", "a", Finder())


def test_the_hash_covers_names_and_content_of_sources_alone(tmp_path: Path) -> None:
    hashes = set()
    for number, files in enumerate(
        (
            {"a.py": "1", "b/c.py": "2"},
            {"a.py": "1", "b/c.py": "3"},
            {"a.py": "1", "b/d.py": "2"},
            {"a.py": "2", "b/c.py": "1"},
            {"a.py": "1", "b/c.py": "2", "data.txt": "3"},  # as the first
        )
    ):
        for name, content in files.items():
            path = tmp_path / str(number) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        hashes.add(sources_sha256(tmp_path / str(number)))
    assert len(hashes) == 4


def test_a_case_of_other_code_has_another_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    known = case_sha256(CASE)
    assert case_sha256(CASE) == known
    monkeypatch.setattr("llmpq_sim.paper.case_cache.PACKAGE", tmp_path)
    assert case_sha256(CASE) != known

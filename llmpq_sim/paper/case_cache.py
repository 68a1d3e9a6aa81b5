"""Case cache of a run, with resume."""

import hashlib
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, Protocol

from llmpq_sim.core.fields import Fields, check_header
from llmpq_sim.io.files import read_json, sha256_of, write_json
from llmpq_sim.paper.cases import task_sha256
from llmpq_sim.search.bound.problem import PlanningTask

PACKAGE = Path(__file__).resolve().parents[1]
VERSION = 1

Content = dict[str, Any]


class PlannedCase(Protocol):
    """What is planned for: one of the paper's cases, or a mix of current devices."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    def task(self) -> PlanningTask:
        """Return what is planned."""
        ...

    def real_task(self) -> PlanningTask:
        """Return what plans are judged by."""
        ...


def kept_results(
    path: Path | None, schema: str, sha256: str, find: Callable[[], list[Content]]
) -> list[Content]:
    """Return results from a file of the same hash, or find them and write that file.

    Args:
        path: the file, or None to keep none. One with another hash is made again.
        schema: of the file.
        sha256: a hash of all that the results follow from.
        find: called where they are not known.

    Raises:
        InputError: the file cannot be read or written.
    """
    if path is not None and path.exists():
        with Fields(read_json(path), path.name) as fields:
            check_header(fields, schema, VERSION)
            known, results = fields.text("sha256"), fields.items("results")
        if known == sha256:
            return results
    results = find()
    if path is not None:
        content = {"schema": schema, "version": VERSION, "sha256": sha256, "results": results}
        write_json(path, content)
    return results


def case_sha256(case: PlannedCase) -> str:
    """Return a hash of all that results of a case follow from: its tasks, and our own code."""
    return sha256_of(
        {
            "code": sources_sha256(PACKAGE),
            "case": asdict(case),
            "tasks": [task_sha256(case.task()), task_sha256(case.real_task())],
        }
    )


@cache
def sources_sha256(folder: Path) -> str:
    """Return a hash of the Python files in a folder and below, names and content."""
    return sha256_of(
        {
            path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in folder.rglob("*.py")
        }
    )

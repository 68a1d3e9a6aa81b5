"""Names and places of bundled files."""

import re
from collections.abc import Iterable
from difflib import get_close_matches
from importlib.resources import files
from pathlib import Path
from typing import Literal

from llmpq_sim.core.errors import InputError

DataKind = Literal["traces", "cluster_profiles"]


def bundled_dir(kind: DataKind) -> Path:
    """Return the folder of bundled files: in the installed package, or beside it in a checkout."""
    package = Path(str(files("llmpq_sim")))
    installed, checkout = package / "_data" / kind, package.parent / kind
    return installed if installed.is_dir() else checkout


def bundled_names(kind: DataKind, folder: str, ending: str) -> tuple[str, ...]:
    """Return the names of the bundled files in a folder, without their ending, in order.

    Names are ordered as people count: ``paper-2`` stands before ``paper-10``.
    """
    found = (bundled_dir(kind) / folder).glob(f"*{ending}")
    return in_counting_order(path.name.removesuffix(ending) for path in found)


def in_counting_order(names: Iterable[str]) -> tuple[str, ...]:
    """Return names as people count: ``paper-2`` stands before ``paper-10``."""
    return tuple(sorted(names, key=_counting))


def _counting(name: str) -> list[int | str]:
    return [int(part) if part.isdecimal() else part for part in re.split(r"(\d+)", name)]


def is_path(name: str, endings: tuple[str, ...]) -> bool:
    """Return whether an argument means a file of the user's rather than a bundled name."""
    return name.endswith(endings) or "/" in name or "\\" in name


def unknown_name(where: str, expected: str, name: str, known: tuple[str, ...]) -> InputError:
    """Return the error for a name that is none of the known ones, with the likely ones."""
    wanted = name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].lower()
    close = get_close_matches(wanted, known, n=3, cutoff=0.6)
    hint = f"did you mean {' or '.join(close)}?" if close else f"known are: {', '.join(known)}"
    return InputError(f"{where}: expected {expected}, got {name!r}; {hint}")

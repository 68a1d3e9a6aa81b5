"""One kind of file: small whole ones, how they are changed, and how they are read and used."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from tests.fuzz.mutations import mutated_bytes, mutated_tree

Use = Callable[[Path], object]


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes:
        name: what faults call it.
        file: its name in a folder of its own.
        wholes: whole files: bytes, or plain data that is written as JSON or YAML.
        read: reads the file of that name, and uses what it holds.
        repair: changes plain data so that it passes a reader's first check, say of hashes.
        lines: whether plain data is a list of which each item is a line.
    """

    name: str
    file: str
    wholes: tuple[Any, ...]
    read: Use
    repair: Callable[[Any], Any] | None = None
    lines: bool = False

    def made(self, random: Random) -> bytes:
        """Return a changed file."""
        whole = random.choice(self.wholes)
        if isinstance(whole, bytes):
            return mutated_bytes(whole, random)
        if random.random() < 0.2:
            return mutated_bytes(self.written(whole), random)
        tree = mutated_tree(whole, random)
        try:
            if self.repair is not None and random.random() < 0.7:
                tree = self.repair(tree)
            return self.written(tree)
        except RecursionError:  # too deep to be written; what can be written is deep enough
            return b"[" * 100_000

    def written(self, tree: Any) -> bytes:
        """Return plain data as a file; JSON is YAML, too, and is written at any depth."""
        if self.file.endswith(".yaml") and tree in self.wholes:
            return yaml.safe_dump(tree, sort_keys=False).encode()
        if self.lines and isinstance(tree, list):
            return "".join(json.dumps(each) + "\n" for each in tree).encode()
        return json.dumps(tree).encode()

    def use(self, folder: Path, content: bytes) -> None:
        """Read a file of this content.

        Raises:
            LlmpqError: it is refused.
        """
        path = folder / self.name / self.file
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
        self.read(path)

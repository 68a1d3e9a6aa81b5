"""Inputs that once were faults, kept beside the repository: each is read or refused now."""

from pathlib import Path

import pytest

from tests.fuzz.inputs import Kind, all_kinds
from tests.fuzz.running import limited_memory, outcome

HOSTILE = Path(__file__).resolve().parents[2] / "../shared/data/hostile"
READERS = {
    "bin": ("bin",),
    "execution": ("execution",),
    "parquet": ("parquet",),
    "profile": ("profile",),
    "safetensors": ("safetensors",),
    "sensitivity": ("sensitivity", "lengths"),
    "stindex": ("index",),
    "tokconf": ("tokenizer-settings",),
    "tokenizer": ("tokenizer",),
    "trace": ("trace-json", "trace-csv", "trace-packed"),
}
"""Kinds by the first word of an input's name."""


@pytest.fixture(scope="module")
def kinds() -> dict[str, Kind]:
    return {kind.name: kind for kind in all_kinds()}


@pytest.mark.skipif(not HOSTILE.is_dir(), reason="no ../shared/data/hostile beside the checkout")
def test_no_hostile_input_is_a_fault(kinds: dict[str, Kind], tmp_path: Path) -> None:
    paths = sorted(HOSTILE.iterdir())
    assert paths
    faults = []
    with limited_memory():
        for path in paths:
            for reader in READERS[path.name.partition("-")[0]]:
                error = outcome(kinds[reader], path.read_bytes(), tmp_path)
                faults += [] if error is None else [f"{path.name} as {reader}: {error}"]
    assert faults == []


def test_every_reader_of_them_is_fuzzed(kinds: dict[str, Kind]) -> None:
    assert {reader for readers in READERS.values() for reader in readers} <= set(kinds)
    assert len(kinds) == len(all_kinds())

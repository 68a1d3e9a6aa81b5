"""Some seconds of fuzzing, of other inputs on every day, and the fuzzer's own laws."""

import os
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest

from llmpq_sim.core.errors import InputError
from tests.fuzz.kinds import Kind
from tests.fuzz.mutations import mutated_bytes, mutated_tree
from tests.fuzz.running import Fault, outcome, run_for

ROOT = Path(__file__).parents[2]
SECONDS = os.environ.get("FUZZ_S", "5")


def test_no_reader_has_a_fault(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "tests.fuzz", "--seconds", SECONDS, "--out", str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    assert run.returncode == 0, run.stdout[-8000:] + run.stderr[-2000:]
    assert run.stdout.rstrip().endswith(" 0 faults")


@pytest.mark.parametrize("seed", range(50))
def test_the_same_seed_makes_the_same_input(seed: int) -> None:
    tree = {"a": [1, 2.5, {"b": "c"}], "d": None}
    first, second = mutated_tree(tree, Random(seed)), mutated_tree(tree, Random(seed))
    assert repr(first) == repr(second)
    assert tree == {"a": [1, 2.5, {"b": "c"}], "d": None}
    content = b'{"a": 1}' * 9
    assert mutated_bytes(content, Random(seed)) == mutated_bytes(content, Random(seed))


def kind_that(fails: Exception | None) -> Kind:
    def read(_: Path) -> None:
        if fails is not None:
            raise fails

    return Kind("made", "made.json", ({"a": 1},), read)


def test_a_fault_is_any_error_but_a_refusal(tmp_path: Path) -> None:
    assert outcome(kind_that(None), b"", tmp_path) is None
    assert outcome(kind_that(InputError("no")), b"", tmp_path) is None
    for error in (ValueError("no"), MemoryError(), RecursionError(), UserWarning("no")):
        told = outcome(kind_that(error), b"", tmp_path)
        assert told is not None
        assert type(error).__name__ in told
    assert outcome(kind_that(InputError("")), b"", tmp_path) == "a message of 0 characters"


def test_what_hangs_is_a_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.fuzz.running.MOST_CPU_S", 0.2)

    def read(_: Path) -> None:
        while True:
            pass

    told = outcome(Kind("made", "made.json", (b"x",), read), b"", tmp_path)
    assert told == "took more than 0.2 s"


def test_faults_are_kept_with_their_inputs() -> None:
    faults: list[Fault] = []
    tried = run_for(0.2, [kind_that(ValueError("no"))], 3, faults.append)
    assert len(faults) == tried > 0
    again = kind_that(None).made(Random(faults[0].seed))
    assert faults[0] == Fault("made", 3_000_000_000, again, faults[0].error)

"""Contract of runtimes, passed by those that ship."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from runtimes.base import Runtime, load_runtime
from runtimes.testing import RuntimeContract


class TestSimulatedRuntime(RuntimeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> Runtime:
        return load_runtime("simulated")


class TestTorchRuntime(RuntimeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> Runtime:
        return load_runtime("torch")


def test_an_unknown_runtime_is_refused_with_those_there_are() -> None:
    with pytest.raises(Exception, match="--runtime: expected an installed runtime") as refused:
        load_runtime("abacus")
    assert "simulated, torch" in str(refused.value)


THIRD_PARTY = '''
import pytest
from dataclasses import replace
from runtimes.simulated import SimulatedRuntime
from runtimes.testing import RuntimeContract

class Forgetful(SimulatedRuntime):
    """Finishes all requests but the first."""

    def run(self, job, on_completion=lambda _: None, on_progress=lambda _: None):
        return super().run(job, lambda one: one.request and on_completion(one), on_progress)

class TestMine(RuntimeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls):
        return SimulatedRuntime()

class TestForgetful(RuntimeContract):
    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls):
        return Forgetful()
'''


def test_others_run_the_contract_without_our_tests(tmp_path: Path) -> None:
    (tmp_path / "test_mine.py").write_text(THIRD_PARTY, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-rA", "-p", "no:cacheprovider", "test_mine.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONSAFEPATH": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        check=False,
    )
    lines = re.findall(r"^(PASSED|FAILED) test_mine.py::(\S+)", done.stdout, re.M)
    outcomes = {name: verdict for verdict, name in lines}
    laws = {name.partition("::")[2] for name in outcomes}
    assert laws == {name for name in vars(RuntimeContract) if name.startswith("test_")}, done.stdout
    assert {outcomes[f"TestMine::{law}"] for law in laws} == {"PASSED"}
    assert outcomes["TestForgetful::test_every_request_is_finished_once"] == "FAILED"
    assert outcomes["TestForgetful::test_instants_are_in_order"] == "PASSED"

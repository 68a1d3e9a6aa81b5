"""Contract of runtimes, passed by those that ship."""

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

from typing import Any

import numpy as np
import pytest

from llmpq_sim.io.models import load_model
from llmpq_sim.latency.fitting.crossover import dense_tokens, kernel_crossovers, used_rows
from llmpq_sim.latency.fitting.rows import Measurements
from tests.local_rows import BITS, FUSED, Laws, local_rows
from tests.measured import gemm_row, measured

SPEC = load_model("llama-160m")


def timed(
    fused_us: dict[int, float], dense_us: dict[int, float], quant: str = "int4"
) -> list[dict[str, Any]]:
    """Return products of one shape by both kernels."""
    return [
        gemm_row(quant=quant, kernel=kernel, m=m, latency_us=time_us)
        for kernel, times in (("fused", fused_us), ("dense", dense_us))
        for m, time_us in times.items()
    ]


@pytest.mark.parametrize("decoded_per_s", [1e9, 2e9, 4e9])
def test_the_switch_of_known_laws_is_found_between_timed_sizes(decoded_per_s: float) -> None:
    laws = Laws(decoded_per_s=decoded_per_s)
    found = kernel_crossovers(measured(local_rows(SPEC, laws)))
    for name in FUSED:
        exact = laws.crossover_of(name, SPEC)
        assert exact is not None
        assert found[name] == pytest.approx(exact, rel=0.06)
    assert found["int3"] == 1
    assert set(found) == set(BITS) - {"bf16"}


def total(gemms: Measurements, crossover: int | None) -> float:
    """Return the sum of the logarithms of the times that a crossover uses."""
    used = used_rows(gemms, {} if crossover is None else {"int4": crossover})
    assert len(used) == len(gemms) / 2
    return float(np.log(used.latency_us).sum())


@pytest.mark.parametrize("seed", range(20))
def test_the_switch_minimises_the_sum_of_logarithms_over_every_candidate(seed: int) -> None:
    rng = np.random.default_rng(seed)
    tokens = [1, 2, 4, 8, 16, 32]
    fused, dense = ({m: float(rng.lognormal()) for m in tokens} for _ in range(2))
    rows = timed(fused, dense)
    rows += [row | {"n": 1024, "latency_us": float(rng.lognormal())} for row in rows]
    gemms = measured(rows)
    best = min(total(gemms, crossover) for crossover in [1, *(m + 1 for m in tokens[:-1]), None])
    assert total(gemms, kernel_crossovers(gemms).get("int4")) == pytest.approx(best, abs=1e-12)


def test_a_fused_kernel_that_always_wins_needs_no_switch() -> None:
    assert kernel_crossovers(measured(timed({1: 1.0, 8: 2.0}, {1: 2.0, 8: 2.5}))) == {}


def test_a_dense_kernel_that_always_wins_is_used_from_the_first_token() -> None:
    assert kernel_crossovers(measured(timed({2: 3.0, 8: 9.0}, {2: 2.0, 8: 2.5}))) == {"int4": 1}


def test_a_format_without_a_fused_kernel_is_always_dense_and_without_a_dense_one_never() -> None:
    assert kernel_crossovers(measured(timed({}, {4: 1.0}))) == {"int4": 1}
    assert kernel_crossovers(measured(timed({4: 1.0}, {}))) == {}


def test_weights_held_as_they_are_multiplied_have_no_switch() -> None:
    rows = measured(timed({}, {4: 1.0}, quant="bf16"))
    assert kernel_crossovers(rows) == {}
    assert dense_tokens(rows, {}) == {"fp16": 1.0}
    assert len(used_rows(rows, {})) == 1


def test_weights_of_16_bits_that_are_widened_first_have_one() -> None:
    rows = measured(timed({1: 1.0, 16: 9.0}, {1: 9.0, 16: 1.0}, quant="bf16"))
    assert kernel_crossovers(rows) == {"fp16": 4}


def test_without_a_switch_a_fused_kernel_is_always_used() -> None:
    rows = measured(timed({1: 1.0}, {1: 2.0}))
    assert dense_tokens(rows, {}) == {"int4": np.inf}
    assert used_rows(rows, {}).kernel.tolist() == ["fused"]


def test_where_the_fused_kernel_was_too_slow_to_time_the_dense_one_is_used() -> None:
    rows = timed({1: 1.0, 8: 1.0}, {1: 9.0, 8: 9.0, 64: 9.0})
    assert kernel_crossovers(measured(rows)) == {"int4": 64}


def test_equal_logarithmic_distances_cross_in_the_geometric_middle() -> None:
    rows = timed({4: 1.0, 64: 2.0}, {4: 2.0, 64: 1.0})
    assert kernel_crossovers(measured(rows)) == {"int4": 16}


def test_rows_of_the_other_kernel_are_left_out() -> None:
    used = used_rows(measured(timed({1: 1.0, 8: 2.0}, {1: 3.0, 8: 1.0})), {"int4": 8})
    assert list(zip(used.kernel.tolist(), used.m.tolist(), strict=True)) == [
        ("fused", 1.0),
        ("dense", 8.0),
    ]


def test_rows_that_name_no_kernel_are_all_used() -> None:
    rows = measured([gemm_row(quant="int4", m=m) for m in (1, 64)])
    assert len(used_rows(rows, kernel_crossovers(rows))) == 2

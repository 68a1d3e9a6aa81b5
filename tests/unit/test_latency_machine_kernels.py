import numpy as np
import pytest

from llmpq_sim.core.units import US
from llmpq_sim.io.models import load_model
from llmpq_sim.latency.fitting.crossover import kernel_crossovers, used_rows
from llmpq_sim.latency.fitting.kernels import attention_sizes_of, by_format, gemm_sizes_of
from llmpq_sim.latency.fitting.machine_kernels import between, fit_local_attention, fit_local_gemm
from llmpq_sim.latency.fitting.rows import Measurements
from llmpq_sim.latency.work import FloatArray, attention_sizes, gemm_sizes
from tests.local_rows import BATCHES, CONTEXTS, Laws, local_machine, local_rows
from tests.measured import attention_row, gemm_row, measured

SPEC = load_model("llama-160m")
MIXER = SPEC.only_kind.attention
LAWS = Laws()
DEVICE = local_machine().as_device("lab", local_machine().formats, "spec")


def products() -> dict[str, Measurements]:
    rows = [row for row in local_rows(SPEC, LAWS) if row["op"] == "gemm"]
    return by_format(measured(rows))


PRODUCTS = products()
CROSSOVERS = kernel_crossovers(
    measured([row for row in local_rows(SPEC, LAWS) if row["op"] == "gemm"])
)


def error(predicted_s: FloatArray, time_s: FloatArray) -> FloatArray:
    return np.asarray(np.abs(predicted_s / time_s - 1))


@pytest.mark.parametrize("name", ["fp16", "int8", "int4", "int3"])
def test_products_of_the_served_shapes_are_followed_closely_and_between_them_as_well(
    name: str,
) -> None:
    rows, crossover = PRODUCTS[name], CROSSOVERS.get(name)
    model = fit_local_gemm(rows, DEVICE, name, crossover, 0)
    used = used_rows(rows, CROSSOVERS)
    at_rows = error(model.time_s(gemm_sizes_of(used)), used.latency_us * US)
    assert np.median(at_rows) < 0.01
    tokens = np.arange(1, 1025)
    of_quant = "bf16" if name == "fp16" else name
    for part in SPEC.only_kind.linears:
        shape = (part.out_features, part.in_features)
        exact_s = [
            LAWS.gemm_s(of_quant, "fused" if crossover and m < crossover else "dense", m, *shape)
            for m in tokens.tolist()
        ]
        off = error(model.time_s(gemm_sizes(tokens, *shape)), np.asarray(exact_s))
        assert np.median(off) < 0.02
        assert np.quantile(off, 0.99) < 0.06


def test_the_step_between_two_kernels_is_where_the_profile_switches() -> None:
    rows = [
        gemm_row(quant="int8", kernel=kernel, m=m, latency_us=time_us)
        for kernel, time_us in (("fused", 10.0), ("dense", 70.0))
        for m in (1, 4, 16, 64, 256)
    ]
    model = fit_local_gemm(measured(rows), DEVICE, "int8", 23, 0)
    before_s, after_s = model.time_s(gemm_sizes([22, 23], 4096, 4096)).tolist()
    assert before_s == pytest.approx(10e-6, rel=0.02)
    assert after_s == pytest.approx(70e-6, rel=0.02)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_attention_is_followed_at_and_between_the_timed_sizes(phase: str) -> None:
    rows = measured(
        [r for r in local_rows(SPEC, LAWS) if r["op"] == "attention" and r["phase"] == phase]
    )
    model = fit_local_attention(rows, DEVICE, phase, 0)
    at_rows = error(model.time_s(attention_sizes_of(rows)), rows.latency_us * US)
    assert np.median(at_rows) < 0.01
    for batch in (1, 3, 5, 11, 16):
        seqs = np.asarray([20, 50, 90, 300, 444])
        sizes = attention_sizes(batch, seqs, MIXER.heads, MIXER.kv_heads, MIXER.key_dim)
        exact_s = [LAWS.attention_s(phase, batch, float(seq), SPEC) for seq in seqs]
        assert error(model.time_s(sizes), np.asarray(exact_s)).max() < 0.05


def test_attention_is_fitted_to_a_grid_with_missing_corners() -> None:
    rows = [
        attention_row(
            batch=batch, seq=seq, heads=12, kv_heads=12, head_dim=64, latency_us=batch * seq
        )
        for batch in BATCHES
        for seq in CONTEXTS
        if batch * seq <= 2000
    ]
    model = fit_local_attention(measured(rows), DEVICE, "decode", 0)
    sizes = attention_sizes([1, 4, 16], [1000, 500, 64], 12, 12, 64)
    assert model.time_s(sizes) == pytest.approx([1e-3, 2e-3, 16 * 64e-6], rel=0.02)


def test_a_single_size_gives_a_constant() -> None:
    model = fit_local_gemm(measured([gemm_row(kernel="dense", m=4)]), DEVICE, "fp16", None, 0)
    assert float(model.time_s(gemm_sizes(4, 4096, 4096))) == pytest.approx(50e-6, rel=1e-3)


def test_sizes_between_are_whole_distinct_and_hold_the_timed_ones() -> None:
    sizes = between([1, 2, 3, 100], 4)
    assert sizes.tolist() == sorted(set(sizes.round().tolist()))
    assert {1.0, 2.0, 3.0, 100.0} <= set(sizes.tolist())
    assert between([7], 4).tolist() == [7.0]

import re

import numpy as np
import pytest

from llmpq_sim.core.layers import Attention, Experts
from llmpq_sim.io.profiles import load_profile
from llmpq_sim.latency.fitting.evaluation import FitError
from llmpq_sim.latency.fitting.fit import FitReport
from llmpq_sim.latency.profile import DeviceProfile
from tests.golden.shipped_profiles import (
    OF_PARTS,
    PROFILES,
    ROOT,
    SHARED_KERNELS,
    TENSORRT_LLM,
    VLLM,
    profiles_of_2023,
    report_of_parts,
    report_of_tensorrt_llm,
    report_of_vllm,
    text_of,
)

LARGEST_BYTES = 600_000
PAGE = ROOT / "docs/profiles.md"
COLUMNS = {"A100": "a100-sxm", "L40S": "l40s", "H100": "h100-sxm", "H200": "h200-sxm"}
COLUMNS |= {"B200": "b200-sxm", "B60": "b60"}

FEW_INT4_SHAPES = ("l40s", "h100-sxm", "h200-sxm", "b200-sxm")
"""Experts in int4 were timed in four shapes of one model there: beyond 512 tokens the others say
less of one than is asked for."""

FEW_SHAPES_OF_B60 = {("window", "fp16", "decode")} | {
    ("experts", name, phase)
    for name in ("fp16", "w8a8-fp8", "mxfp4")
    for phase in ("decode", "prefill")
}
"""Experts were timed there with uneven routing alone, in 5 to 11 shapes."""


@pytest.fixture(scope="module", params=TENSORRT_LLM)
def fitted(request: pytest.FixtureRequest) -> tuple[str, FitReport]:
    if not SHARED_KERNELS.is_dir():
        pytest.skip("the measurements of TensorRT-LLM kernels are not beside the repository")
    return request.param, report_of_tensorrt_llm(request.param)


def test_profiles_of_2023_follow_from_the_bundled_rows() -> None:
    for file_name, profile in profiles_of_2023().items():
        assert (PROFILES / file_name).read_text(encoding="utf-8") == text_of(profile), file_name


def test_no_shipped_profile_is_large() -> None:
    assert max(path.stat().st_size for path in PROFILES.glob("*.json")) <= LARGEST_BYTES


@pytest.mark.slow
def test_profiles_of_tensorrt_llm_follow_from_the_shared_rows(
    fitted: tuple[str, FitReport],
) -> None:
    """To 1 %, because the last bits of a fit depend on the processor."""
    device, report = fitted
    shipped = load_profile(PROFILES / f"{device}.{TENSORRT_LLM[device][1]}.json")
    assert shipped.formats == report.profile.formats
    tokens = np.geomspace(1, 8192, 50)
    for name in shipped.formats:
        ratio = shipped.gemm_s(name, tokens, 8192, 8192) / report.profile.gemm_s(
            name, tokens, 8192, 8192
        )
        assert np.median(np.abs(ratio - 1)) < 0.01


@pytest.mark.slow
def test_errors_on_unseen_shapes_meet_their_targets(fitted: tuple[str, FitReport]) -> None:
    """Medians: 3.5 % of an fp16 product, 4.5 % of a quantized one, 3 % of a whole layer."""
    limits = {("gemm", "fp16"): 0.035, ("gemm", "int8"): 0.045, ("gemm", "int4"): 0.045}
    missed = [
        error
        for error in fitted[1].errors
        if error.phase == "any" or error.op == "layer"
        if error.median_ape > limits.get((error.op, error.format), 0.03)
    ]
    assert missed == []


@pytest.mark.slow
def test_unseen_layers_are_predicted_better_than_by_the_linear_model(
    fitted: tuple[str, FitReport],
) -> None:
    _, report = fitted
    linear = {(error.format, error.phase): error for error in report.baseline_errors}
    layers = [error for error in report.errors if error.op == "layer"]
    assert {(error.format, error.phase) for error in layers} == set(linear)
    for error in layers:
        assert error.p90_ape < linear[error.format, error.phase].p90_ape


@pytest.mark.slow
def test_the_readme_states_these_errors(fitted: tuple[str, FitReport]) -> None:
    """To 0.3 points, because the last bits of a fit depend on the processor."""
    device, report = fitted
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    row = next(line for line in readme.splitlines() if line.startswith(f"| {device.upper()} |"))
    stated = [float(number) for number in re.findall(r"\d+\.\d", row)]
    found = {(error.op, error.format, error.phase): error for error in report.errors}
    columns = [("gemm", name, "any") for name in ("fp16", "int8", "int4")]
    columns += [("layer", n, p) for n in ("fp16", "int4") for p in ("prefill", "decode")]
    errors = [found[column] for column in columns]
    expected = [100 * value for error in errors for value in (error.median_ape, error.p90_ape)]
    assert stated == pytest.approx(expected, abs=0.3)


# ---- public tables of vLLM, and parts beyond dense layers


def shipped(device: str) -> DeviceProfile:
    kernels = VLLM[device][0] if device in VLLM else TENSORRT_LLM[device][1]
    return load_profile(PROFILES / f"{device}.{kernels}.json")


@pytest.fixture(scope="module", params=(*VLLM, "a100-sxm"))
def fitted_parts(request: pytest.FixtureRequest) -> tuple[str, FitReport]:
    if not SHARED_KERNELS.is_dir():
        pytest.skip("the public tables of kernels are not beside the repository")
    device = request.param
    return device, report_of_vllm(device) if device in VLLM else report_of_parts(device)


def test_formats_are_not_bits() -> None:
    """Measured on an H100: 61 us in fp8-block and 52 us in 16 bits for 8192 x 8192, one token."""
    profile = shipped("h100-sxm")
    block_s, half_s, fp8_s = (
        float(profile.gemm_s(name, 1, 8192, 8192)) for name in ("fp8-block", "fp16", "w8a8-fp8")
    )
    assert block_s == pytest.approx(61e-6, rel=0.1)
    assert half_s == pytest.approx(52e-6, rel=0.15)
    assert fp8_s < half_s < block_s
    mixture = Experts(count=128, chosen=8, inner_size=768)
    fp8_experts_s, half_experts_s = (
        profile.experts_s(name, [16, 64], mixture, 2048) for name in ("w8a8-fp8", "fp16")
    )
    assert (fp8_experts_s > 2 * half_experts_s).all()


@pytest.mark.parametrize("device", [*VLLM, "a100-sxm"])
def test_shipped_profiles_have_what_was_timed_on_their_device(device: str) -> None:
    profile = shipped(device)
    assert {"fp16"} < set(profile.experts)
    assert bool(profile.windows) == (device != "a100-sxm")
    assert bool(profile.latent) == bool(profile.convolutions) == (device != "b60")
    window = Attention(heads=64, kv_heads=8, key_dim=64, value_dim=64, window=128)
    bounded_s = profile.attention_s("decode", 32, [4096, 131072], window)
    assert bounded_s[1] < 1.5 * bounded_s[0]
    assert profile.part_notes[0].startswith("Beside dense layers were timed: experts in fp16")


@pytest.mark.parametrize("device", sorted(set(TENSORRT_LLM) & set(VLLM)))
def test_both_kernel_sets_of_a_device_have_the_same_parts(device: str) -> None:
    other = load_profile(PROFILES / f"{device}.{TENSORRT_LLM[device][1]}.json")
    for name in OF_PARTS:
        assert getattr(other, name) == getattr(shipped(device), name)


@pytest.mark.slow
def test_parts_and_products_follow_from_the_public_tables(
    fitted_parts: tuple[str, FitReport],
) -> None:
    """To 1 %, because the last bits of a fit depend on the processor."""
    device, report = fitted_parts
    profile, again = shipped(device), report.profile
    assert set(profile.experts) == set(again.experts)
    tokens = np.geomspace(1, 8192, 50)
    for name in profile.experts:
        mixture = Experts(count=64, chosen=4, inner_size=2048)
        ratio = profile.experts_s(name, tokens, mixture, 4096) / again.experts_s(
            name, tokens, mixture, 4096
        )
        assert np.median(np.abs(ratio - 1)) < 0.01


@pytest.mark.slow
def test_errors_of_parts_and_products_meet_their_targets(
    fitted_parts: tuple[str, FitReport],
) -> None:
    """Medians of 8 %, of products 4 %; 25 % at the 90th percentile of experts."""
    device, report = fitted_parts
    missed = [error for error in report.errors if not _is_met(error)]
    allowed = {("experts", "int4", "prefill")} if device in FEW_INT4_SHAPES else set()
    if device == "b60":
        allowed = FEW_SHAPES_OF_B60
    assert {(error.op, error.format, error.phase) for error in missed} <= allowed
    assert all(error.median_ape < 0.16 and error.p90_ape < 0.55 for error in missed)


def _is_met(error: FitError) -> bool:
    if error.op == "gemm":
        return error.phase != "any" or error.median_ape <= 0.04
    if error.op == "experts":
        return error.phase == "any" or (error.median_ape <= 0.08 and error.p90_ape <= 0.25)
    return error.median_ape <= 0.08


@pytest.mark.slow
def test_the_page_states_these_errors(fitted_parts: tuple[str, FitReport]) -> None:
    """To 1 point of medians and 3 of 90th percentiles: they depend on the processor."""
    device, report = fitted_parts
    lines = [line.split("|")[1:-1] for line in PAGE.read_text(encoding="utf-8").splitlines()]
    table = [[cell.strip() for cell in line] for line in lines if len(line) == len(COLUMNS) + 1]
    header, _, *rows = table
    column = next(i for i, name in enumerate(header) if COLUMNS.get(name) == device)
    stated = {row[0]: row[column] for row in rows if row[column]}
    found = {
        f"{error.op}, {error.format}, {error.phase}": error
        for error in report.errors
        if error.op != "layer"
        and (error.op != "gemm" or error.phase == "any")
        and (error.op != "experts" or error.phase != "any")
    }
    assert set(stated) == set(found)
    for name, cell in stated.items():
        median, p90 = (float(number) for number in cell.split(" / "))
        assert 100 * found[name].median_ape == pytest.approx(median, abs=1)
        assert 100 * found[name].p90_ape == pytest.approx(p90, abs=3)

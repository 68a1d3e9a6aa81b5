import re

import numpy as np
import pytest

from llmpq_sim.io.profiles import load_profile
from llmpq_sim.latency.fitting.fit import FitReport
from tests.golden.shipped_profiles import (
    PROFILES,
    ROOT,
    SHARED_KERNELS,
    TENSORRT_LLM,
    profiles_of_2023,
    report_of_tensorrt_llm,
    text_of,
)

LARGEST_BYTES = 600_000


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

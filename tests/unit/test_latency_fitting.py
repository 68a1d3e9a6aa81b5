from typing import Any

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.records import from_dict, to_dict
from llmpq_sim.io.files import json_text, parse_json
from llmpq_sim.io.models import load_model
from llmpq_sim.latency.fitting.fit import FitReport, fit_profile
from llmpq_sim.latency.profile import DeviceProfile
from tests.measured import attention_grid, gemm_grid, gemm_row, lab_device, measured

DEVICE = lab_device()
FULL = [*gemm_grid(), *gemm_grid("int4", 4), *attention_grid("prefill"), *attention_grid("decode")]


def report_of(rows: list[dict[str, Any]], **options: Any) -> FitReport:
    return fit_profile(measured(rows), DEVICE, options.pop("kernels", "own"), 0, **options)


def test_a_full_set_of_measurements_gives_a_measured_profile() -> None:
    steps: list[str] = []
    report = report_of(FULL, on_progress=steps.append)
    assert report.profile.status == "measured"
    assert report.rows_used == report.profile.calibration_rows == len(FULL)
    assert report.rows_dropped == {}
    assert {error.op for error in report.errors} == {"gemm", "attention"}
    assert "fitting int4 matrix products: 96 rows" in steps


def test_what_was_not_timed_is_priced_as_the_next_wider_format() -> None:
    profile = report_of(FULL).profile
    assert profile.aliases == {"bf16": "fp16", "int8": "fp16", "int3": "int4"}
    assert profile.notes == (
        "bf16 is priced as fp16: it was not timed.",
        "int8 is priced as fp16: it was not timed.",
        "int3 is priced as int4: it was not timed.",
        "Times are sums of kernels: gaps between launches are not in them.",
        "From 1,024 tokens on no format is taken as faster than fp16.",
    )


def test_the_profile_survives_its_file_exactly() -> None:
    profile = report_of(FULL).profile
    content = parse_json(json_text(to_dict(profile)), "lab.json")
    assert from_dict(DeviceProfile, Fields(content, "lab.json")) == profile


def test_few_rows_calibrate_the_data_sheet() -> None:
    report = report_of([gemm_row(quant="int4", m=tokens) for tokens in range(1, 21)])
    profile = report.profile
    assert (profile.status, profile.calibration_rows, profile.error_fraction) == (
        "calibrated", 20, 0.15,
    )  # fmt: skip
    assert report.errors == report.baseline_errors == []
    assert profile.notes[-4:] == (
        "fp16 follows the data sheet: it was not timed.",
        "Attention in prefill follows the data sheet.",
        "Attention in decode follows the data sheet.",
        "Times are sums of kernels: gaps between launches are not in them.",
    )


def test_whole_layers_calibrate_the_data_sheet() -> None:
    row = {"op": "layer", "model": "opt-30b", "phase": "decode", "quant": "fp16"}
    rows = [row | {"batch": batch, "seq": 512, "latency_us": 2e3 + batch} for batch in (2, 4, 8)]
    report = report_of(rows, models={"opt-30b": load_model("opt-30b")})
    assert (report.profile.status, report.rows_used) == ("calibrated", 3)
    assert report.profile.error_fraction >= 0.15
    assert report.profile.elementwise_s([1e9]).tolist() == [0]
    assert report.profile.notes[0].startswith("Fitted to 3 whole layers, which it meets within ")


def test_layers_beside_kernels_are_counted_as_dropped() -> None:
    layer = {"op": "layer", "model": "opt-30b", "phase": "decode", "quant": "fp16"}
    rows = [gemm_row(), layer | {"batch": 1, "seq": 512, "latency_us": 2e3}]
    assert report_of(rows).rows_dropped == {"layer rows beside those the fit is of": 1}


def test_nothing_usable_says_why() -> None:
    rows = [gemm_row(quant="fp8_w8a8"), gemm_row(m=0), gemm_row(m=0)]
    with pytest.raises(InputError) as caught:
        report_of(rows)
    assert str(caught.value) == (
        "expected timed matrix products or layers, got none among 3 rows; "
        "1 dropped: not a weight-only format (fp8, w8a8); 2 dropped: m, n or k is not positive"
    )


@pytest.mark.parametrize(
    ("library", "kernels"),
    [
        ({"backend": "trtllm", "version": "1.2.0rc5"}, "trtllm-1.2"),
        ({"backend": "mine"}, "mine"),
        ({}, "own"),
    ],
)
def test_the_kernel_set_is_named_after_the_library(library: dict[str, str], kernels: str) -> None:
    assert report_of([gemm_row(**library)], kernels=None).profile.kernels == kernels


def test_the_same_seed_gives_the_same_bytes() -> None:
    first, second = (json_text(to_dict(report_of(FULL).profile)) for _ in range(2))
    assert first == second

"""Formats of published checkpoints: their bytes, their fallbacks, and which devices run them."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from llmpq_sim.api.planned import Planned
from llmpq_sim.api.planning import plan
from llmpq_sim.api.quality_target import QualityOptions
from llmpq_sim.core.cluster import Cluster
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import COMMON_FORMATS, FORMATS, WEIGHT_ONLY_RATE
from llmpq_sim.io.clusters import load_cluster
from llmpq_sim.io.devices import load_devices
from llmpq_sim.io.models import load_model
from llmpq_sim.io.tasks import chosen_formats, default_formats
from llmpq_sim.latency.spec import spec_gemm, sustained_flops_per_s
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.planner import SearchSettings

BLOCK_BYTES = {
    "q8_0": (32, 34), "q6_k": (256, 210), "q5_1": (32, 24), "q5_k": (256, 176), "q5_0": (32, 22),
    "q4_k": (256, 144), "q4_0": (32, 18), "iq4_nl": (32, 18), "iq4_xs": (256, 136),
    "q3_k": (256, 110), "q2_k": (256, 84),
}  # fmt: skip
"""Weights and bytes of a block: ``GGML_QUANT_SIZES`` of the package gguf."""

MODEL = load_model("opt-125m")  # rows of 768 and 3072 weights


def test_a_matrix_of_a_gguf_type_is_its_blocks() -> None:
    for name, (weights, size_bytes) in BLOCK_BYTES.items():
        assert FORMATS[name].matrix_bytes(3, 4 * weights) == 12 * size_bytes, name
        assert FORMATS[name].stored_bits == 8 * size_bytes / weights


@pytest.mark.parametrize(
    ("name", "row", "kept_as"),
    [
        ("q4_k", 512, "q4_k"), ("q4_k", 576, "q5_0"), ("q5_k", 576, "q5_1"), ("q6_k", 96, "q8_0"),
        ("q3_k", 576, "q4_0"), ("q2_k", 32, "q4_0"), ("iq4_xs", 576, "iq4_nl"),
        ("q2_k", 100, "fp16"), ("q8_0", 100, "fp16"), ("int4-g128", 576, "int4-g128"),
    ],
)  # fmt: skip
def test_rows_that_are_not_whole_blocks_are_stored_otherwise(
    name: str, row: int, kept_as: str
) -> None:
    assert FORMATS[name].of_rows(row).name == kept_as
    assert FORMATS[name].matrix_bytes(7, row) == FORMATS[kept_as].matrix_bytes(7, row)


def test_scales_are_counted_as_checkpoints_hold_them() -> None:
    weights = 512 * 1024
    by_hand = {
        "int4-g128": weights // 2 + 512 * 8 * 20 // 8,
        "int4-g32": weights // 2 + 512 * 32 * 20 // 8,
        "fp8": weights + 512 * 4,
        "w8a8-int8": weights + 512 * 4,
        "fp8-block": weights + 4 * 8 * 4,
        "mxfp4": weights // 32 * 17,
        "nvfp4": weights // 2 + weights // 16 + 4,
        "int2": weights // 4 + weights // 64 * 4,
    }
    assert {name: FORMATS[name].matrix_bytes(512, 1024) for name in by_hand} == by_hand
    assert FORMATS["fp8-block"].matrix_bytes(129, 129) == 129 * 129 + 2 * 2 * 4


def test_formats_asked_for_by_name_have_a_colour_of_their_own() -> None:
    colours = Counter(each.colour for name, each in FORMATS.items() if name not in COMMON_FORMATS)
    taken = {FORMATS[name].colour for name in COMMON_FORMATS}
    assert set(colours.values()) == {1}
    assert not colours.keys() & taken


def test_what_is_stored_narrower_comes_later() -> None:
    bits = [each.stored_bits for each in FORMATS.values()]
    assert bits == sorted(bits, reverse=True)


def test_a_rate_needs_the_arithmetic() -> None:
    devices = load_devices()
    for name, format_name, rate in (
        ("h100-sxm", "fp8-block", 2.0), ("a100-sxm", "fp8-block", WEIGHT_ONLY_RATE),
        ("b200", "nvfp4", 4.0), ("h100-sxm", "nvfp4", WEIGHT_ONLY_RATE),
        ("a100-sxm", "w8a8-int8", 2.0), ("l40s", "w8a8-fp8", 2.0), ("h100-sxm", "fp8", 0.95),
    ):  # fmt: skip
        device = devices[name]
        found = spec_gemm(device, format_name).base.flops_per_s
        assert found == pytest.approx(rate * sustained_flops_per_s(device)), (name, format_name)


def test_a_device_runs_what_it_decodes_and_what_it_multiplies() -> None:
    devices = load_devices()
    for name, each in FORMATS.items():
        assert devices["p100-12g"].runs(name) == each.runs_anywhere, name
        assert devices["b200"].runs(name), name
    assert devices["t4"].runs("w8a8-int8")
    assert not devices["t4"].runs("w8a8-fp8")
    assert not devices["v100-32g"].runs("w8a8-int8")


def mixed() -> Cluster:
    return load_cluster("t4-v100-a100")


def planned(formats: str, cluster: str = "a100-l40s") -> tuple[PlanningTask, Planned]:
    found = plan(
        model=MODEL, cluster=cluster, batch=4, prompt_tokens=64, output_tokens=4, formats=formats,
        settings=SearchSettings(generations=0, only_plans=True), quality=QualityOptions("9"),
    )  # fmt: skip
    task = found.outcome.task
    assert isinstance(task, PlanningTask)
    return task, found


def test_a_format_that_no_device_runs_is_refused_with_the_reason() -> None:
    with pytest.raises(InputError) as caught:
        chosen_formats("int4,w8a8-fp8", MODEL, mixed())
    assert str(caught.value) == (
        "--formats: no device of t4-v100-a100 runs w8a8-fp8, which takes fp8 matrix arithmetic"
    )


def test_formats_are_offered_only_where_they_are_asked_for() -> None:
    assert set(default_formats(MODEL, mixed())) <= set(COMMON_FORMATS)
    offered = mixed().offering(("q4_k", "w8a8-int8"))
    before = {member.name: member.device.formats for member in mixed().devices}
    for member in offered.devices:
        more = ("q4_k",) if "v100" in member.name else ("q4_k", "w8a8-int8")
        assert member.device.formats == (*before[member.name], *more)
    assert mixed().offering(("int4",)) == mixed()


def test_what_a_profile_has_no_times_for_follows_the_data_sheet_and_says_so() -> None:
    task, found = planned("int4,q6_k")
    assert [note for note in found.notes if "q6_k" in note] == [
        f"{kind}: times of q6_k follow its data sheet, for trtllm-1.0 has none"
        for kind in ("a100-sxm", "l40s")
    ]
    profile = task.costs.profiles["a100-sxm"]
    assert profile.gemms["q6_k"] == spec_gemm(load_devices()["a100-sxm"], "q6_k")
    assert profile.notes[-1] == "q6_k follows the data sheet: not timed."


def test_a_device_keeps_the_arithmetic_that_its_formats_use() -> None:
    for formats, kept in (("int4", ()), ("fp8-block", ("fp8",)), ("w8a8-int8", ("int8",))):
        task, found = planned(formats, "h200-l40s")
        assert {device.arithmetic for device in task.costs.devices.values()} == {kept}
        assert bool(found.notes) == bool(kept)


def test_the_page_says_what_is_stored_and_served() -> None:
    page = (Path(__file__).parents[2] / "docs/formats.md").read_text(encoding="utf-8")
    rows = [line.split(" | ") for line in page.splitlines() if line.startswith("| `")]
    named = [(re.findall(r"`([^`]+)`", cells[0]), cells) for cells in rows]
    assert {name for names, _ in named for name in names} == FORMATS.keys() - {"fp16", "bf16"}
    for names, cells in named:
        bits = [float(each) for each in re.findall(r"\d+\.\d+", cells[1])]
        exact = [round(FORMATS[name].stored_bits, 2) for name in names]
        assert set(bits) == (set(exact) if len(bits) > 2 else {max(exact), min(exact)})
        served = {"torch" in FORMATS[name].engines for name in names}
        assert served == {cells[3].startswith("yes")}


def even(weights: np.ndarray, levels: int) -> np.ndarray:
    """Round as ggml's q4_0 and q5_0 do: the largest weight is the lowest code of its block."""
    blocks = weights.reshape(-1, 32)
    largest = np.take_along_axis(blocks, np.abs(blocks).argmax(axis=1)[:, None], axis=1)
    step = -largest / (levels // 2)
    codes = np.clip(np.floor(blocks / step + levels // 2 + 0.5), 0, levels - 1)
    return np.asarray((codes - levels // 2) * step).ravel()


def to_minimum(weights: np.ndarray, levels: int) -> np.ndarray:
    """Round as ggml's q5_1 does: from a block's least to its largest weight."""
    blocks = weights.reshape(-1, 32)
    low = blocks.min(axis=1, keepdims=True)
    step = (blocks.max(axis=1, keepdims=True) - low) / (levels - 1)
    return np.asarray(np.round((blocks - low) / step) * step + low).ravel()


def to_largest(weights: np.ndarray) -> np.ndarray:
    """Round as ggml's q8_0 does."""
    blocks = weights.reshape(-1, 32)
    step = np.abs(blocks).max(axis=1, keepdims=True) / 127
    return np.asarray(np.round(blocks / step) * step).ravel()


def test_nominal_noise_of_simple_blocks_is_that_of_normal_weights() -> None:
    """Steps on int4's scale: 7 steps are a relative error of 0.0999 (docs/log.md)."""
    weights = np.random.default_rng(0).normal(size=1 << 20)
    rounded = {
        "q8_0": to_largest(weights), "q5_1": to_minimum(weights, 32),
        "q5_0": even(weights, 32), "q4_0": even(weights, 16),
    }  # fmt: skip
    for name, numbers in rounded.items():
        noise = np.sqrt(np.mean((numbers - weights) ** 2))
        assert FORMATS[name].steps == pytest.approx(7 * 0.0999 / noise, rel=0.02), name

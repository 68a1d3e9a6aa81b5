from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_sim.core.fields import Fields
from llmpq_sim.core.records import from_dict, to_dict
from llmpq_sim.io.devices import load_devices
from llmpq_sim.io.files import json_text, parse_json
from llmpq_sim.io.profiles import bundled_profile
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.latency.spec import spec_profile
from llmpq_sim.latency.trees import LEAF_UNIT, Trees
from tests.measured import lab_device

PROFILES = [
    (device.name, kernels) for device in load_devices().values() for kernels in device.kernels
]
SOME = [name for name in PROFILES if name[1] != "spec"] + [("t4", "spec"), ("h200-sxm", "spec")]

tokens = st.floats(1, 1e7)
widths = st.integers(1, 10**6)


@cache
def profile_of(device: str, kernels: str) -> DeviceProfile:
    return bundled_profile(load_devices()[device], kernels)


@pytest.mark.parametrize("name", SOME, ids="/".join)
@settings(max_examples=40, deadline=None)
@given(tokens, widths, widths)
def test_products_take_a_positive_finite_time(
    name: tuple[str, str], m: float, n: int, k: int
) -> None:
    profile = profile_of(*name)
    times_s = np.array([profile.gemm_s(weights, m, n, k) for weights in profile.formats])
    assert np.isfinite(times_s).all()
    assert (times_s > 0).all()


@pytest.mark.parametrize("name", SOME, ids="/".join)
@settings(max_examples=40, deadline=None)
@given(st.integers(1, 10**5), tokens, st.integers(1, 256), st.integers(1, 256), st.integers(1, 512))
def test_attention_takes_a_positive_finite_time(
    name: tuple[str, str], batch: int, m: float, group: int, kv_heads: int, head_dim: int
) -> None:
    profile, layout = profile_of(*name), (group * kv_heads, kv_heads, head_dim)
    times_s = np.array(
        [
            profile.prefill_attention_s(batch, m, *layout),
            profile.decode_attention_s(batch, m, *layout),
        ]
    )
    assert np.isfinite(times_s).all()
    assert (times_s > 0).all()


@pytest.mark.parametrize("name", SOME[:4], ids="/".join)
@settings(max_examples=30, deadline=None)
@given(st.lists(tokens, min_size=1, max_size=5), widths, widths)
def test_many_at_once_are_the_same_as_one_by_one(
    name: tuple[str, str], sizes: list[float], n: int, k: int
) -> None:
    profile = profile_of(*name)
    together = profile.gemm_s("int4", np.array(sizes), n, k)
    assert together.tolist() == [float(profile.gemm_s("int4", size, n, k)) for size in sizes]


@pytest.mark.parametrize(
    "name", [name for name in SOME if profile_of(*name).status == "measured"], ids="/".join
)
@settings(max_examples=30, deadline=None)
@given(st.floats(1.0, 1000.0), st.sampled_from([1024, 4096, 16384]))
def test_beyond_the_profiled_tokens_time_follows_the_roofline(
    name: tuple[str, str], factor: float, width: int
) -> None:
    profile = profile_of(*name)
    model = profile.gemms["fp16"]
    assert model.correction is not None
    edge = model.correction.most[0]
    at_s, far_s = profile.gemm_s("fp16", [edge, edge * factor], width, width)
    without = model.base.time_s(2.0 * np.array([edge, edge * factor]) * width**2, np.zeros(2))
    assert far_s / at_s == pytest.approx(without[1] / without[0], rel=1e-9)
    assert profile.beyond_range("fp16", edge * factor, width, width) == (factor > 1)


@pytest.mark.parametrize("name", SOME, ids="/".join)
def test_a_shipped_profile_survives_its_file_exactly(name: tuple[str, str]) -> None:
    profile = profile_of(*name)
    content = parse_json(json_text(to_dict(profile)), "profile")
    assert from_dict(DeviceProfile, Fields(content, "profile")) == profile


@st.composite
def trees(draw: st.DrawFn) -> str:
    """Return a tree over three questions."""
    leaf = st.integers(-100, 100).map(str)
    grow = lambda below: st.tuples(st.integers(0, 2), below, below).map(  # noqa: E731
        lambda parts: f"<{parts[0]} {parts[1]} {parts[2]}"
    )
    return draw(st.recursive(leaf, grow, max_leaves=12))


def answer(words: list[str], row: list[bool]) -> int:
    """Return the leaf of a row, reading the words of a tree from the left and using them up."""
    word = words.pop(0)
    if not word.startswith("<"):
        return int(word)
    left, right = answer(words, row), answer(words, row)
    return left if row[int(word[1:])] else right


@settings(deadline=None)
@given(st.lists(trees(), min_size=1, max_size=5), st.lists(st.booleans(), min_size=3, max_size=3))
def test_trees_answer_as_a_plain_reader_of_their_text_does(
    texts: list[str], goes_left: list[bool]
) -> None:
    ensemble = Trees(0.0, (0, 1, 2), (0.5, 0.5, 0.5), tuple(texts))
    row = np.array([[0.0 if left else 1.0 for left in goes_left]])
    expected = sum(answer(text.split(), goes_left) for text in texts)
    assert round(float(ensemble.predict(row)[0]) / LEAF_UNIT) == expected


@given(st.floats(1e9, 1e13), st.floats(1e11, 1e16), st.floats(0.01, 1.0))
def test_a_faster_data_sheet_is_never_slower(
    bytes_per_s: float, flops_per_s: float, share: float
) -> None:
    slow, fast = (
        spec_profile(lab_device(memory_bytes_per_s=bytes_per_s * f, flops_per_s=flops_per_s * f))
        for f in (share, 1.0)
    )
    sizes = np.array([1.0, 100.0, 1e4])
    assert (fast.gemm_s("int4", sizes, 4096, 4096) <= slow.gemm_s("int4", sizes, 4096, 4096)).all()

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.layers import (
    Attention,
    Dense,
    Experts,
    Indexer,
    LatentAttention,
    LayerKind,
    Linear,
    Recurrent,
)
from llmpq_sim.core.records import from_dict, to_dict
from llmpq_sim.io.files import json_text, parse_json
from llmpq_sim.latency.assumptions import assumed_parts
from llmpq_sim.latency.corrections import Correction
from llmpq_sim.latency.models import Roofline
from llmpq_sim.latency.needed_parts import needed_parts
from llmpq_sim.latency.part_work import ExpertsSizes, WindowSizes
from llmpq_sim.latency.parts import EXPERTS_RATE, PartModel, experts_sizes
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.latency.spec import KERNEL_FIXED_S, spec_profile
from llmpq_sim.latency.trees import Trees
from tests.measured import lab_device

SPEC = spec_profile(lab_device(formats=("fp16", "int4")))
MEASURED = replace(SPEC, status="measured")
PLAIN = Attention(heads=32, kv_heads=8, key_dim=128, value_dim=128)
WINDOW = replace(PLAIN, window=1024)
LATENT = LatentAttention(128, 1536, kv_rank=512, nope_dim=128, rope_dim=64, value_dim=128)
MIXTURE = Experts(count=128, chosen=8, inner_size=768)
DELTA = Recurrent(
    algorithm="gated-delta",
    projections=(Linear("in", 12288, 4096),),
    heads=48,
    key_dim=128,
    value_dim=128,
    state_elements=48 * 128 * 128,
    state_element_bytes=2,
    convolution_elements=3 * 10240,
    convolution_weights=4 * 10240,
)
FLOPS_PER_S, BYTES_PER_S = 5e13, 8e11  # what the made-up device sustains

counts = st.integers(1, 100_000)


def corrected(kind: Any, log_factor: float) -> PartModel:
    """Return a model whose trees say one factor within a box of every size."""
    trees = Trees(log_factor, (), (), ())
    sizes = len(kind._fields)
    box = Correction(trees, (1.0,) * sizes, (1e6,) * sizes)
    return PartModel(Roofline(1e-5, 1e13, 1e12), box, 100)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
@given(batch=counts, tokens=counts)
def test_attention_without_a_window_is_as_before(phase: str, batch: int, tokens: int) -> None:
    old = SPEC.prefill_attention_s if phase == "prefill" else SPEC.decode_attention_s
    expected = old(batch, tokens, 32, 8, 128)
    assert SPEC.attention_s(phase, batch, tokens, PLAIN) == expected
    within = replace(PLAIN, window=tokens)
    assert SPEC.attention_s(phase, batch, tokens, within) == expected


@given(batch=counts, tokens=counts)
def test_a_window_bounds_decode_and_never_lengthens_prefill(batch: int, tokens: int) -> None:
    decode_s = SPEC.attention_s("decode", batch, tokens, WINDOW)
    assert decode_s == SPEC.attention_s("decode", batch, min(tokens, 1024), PLAIN)
    prefill_s = SPEC.attention_s("prefill", batch, tokens, WINDOW)
    assert KERNEL_FIXED_S < prefill_s <= SPEC.attention_s("prefill", batch, tokens, PLAIN)


def test_prefill_within_a_window_grows_with_the_prompt_and_not_with_its_square() -> None:
    times_s = SPEC.attention_s("prefill", 1, np.array([16384.0, 32768.0]), WINDOW)
    moved_s = 2 * 16384 * (32 + 8) * 128 * 2 / BYTES_PER_S  # of 16,384 tokens
    assert 1.9 < (times_s[1] - KERNEL_FIXED_S) / (times_s[0] - KERNEL_FIXED_S) < 2.1
    pairs_s = 4 * 32 * 128 * 16384 * (1024 + 128) / FLOPS_PER_S
    assert pairs_s < times_s[0] < pairs_s + moved_s + KERNEL_FIXED_S


def test_keys_and_values_of_other_widths_do_the_work_of_their_mean() -> None:
    uneven = replace(PLAIN, key_dim=192, value_dim=128)
    assert SPEC.attention_s("decode", 4, 4096, uneven) == SPEC.decode_attention_s(
        4, 4096, 32, 8, 160
    )


@given(tokens=st.integers(1, 16384))
def test_experts_take_what_their_distinct_ones_and_padded_rows_take(tokens: int) -> None:
    distinct = 128 * (1 - (1 - 8 / 128) ** tokens)
    weights = 3 * 2048 * 768
    moved = 2 * distinct * weights + 2 * tokens * 8 * (2 * 2048 + 3 * 768)
    rows = max(tokens * 8 / distinct, 1)
    tile = next((size for size in (16, 32) if rows <= size), 64)
    flops = 2 * distinct * np.ceil(rows / tile) * tile * weights
    work_s = max(moved / BYTES_PER_S, flops / (EXPERTS_RATE * FLOPS_PER_S))
    time_s = SPEC.experts_s("fp16", tokens, MIXTURE, 2048)
    assert time_s == pytest.approx(3 * KERNEL_FIXED_S + work_s)


def test_experts_without_a_gate_or_on_a_latent_width_read_less() -> None:
    whole_s = SPEC.experts_s("fp16", 1024, MIXTURE, 4096)
    assert SPEC.experts_s("fp16", 1024, replace(MIXTURE, is_gated=False), 4096) < whole_s
    assert SPEC.experts_s("fp16", 1024, replace(MIXTURE, latent_size=1024), 4096) < whole_s
    assert SPEC.experts_s("int4", 16, MIXTURE, 4096) < SPEC.experts_s("fp16", 16, MIXTURE, 4096)


def test_experts_in_a_format_that_the_profile_lacks_are_refused() -> None:
    with pytest.raises(InputError, match="no measurements of int8; it has fp16, int4"):
        SPEC.experts_s("int8", 1, MIXTURE, 4096)


def test_latent_attention_reads_one_compressed_vector_a_token() -> None:
    few_s = SPEC.latent_s("decode", 64, 1024, replace(LATENT, heads=1))
    read = 64 * 2 * (1024 * (512 + 64) + 2 * 512 + 64)
    assert few_s == pytest.approx(KERNEL_FIXED_S + read / BYTES_PER_S)
    flops = 2 * 64 * 128 * 131072 * (2 * 512 + 64)
    many_s = SPEC.latent_s("decode", 64, 131072, LATENT)
    assert many_s == pytest.approx(KERNEL_FIXED_S + flops / FLOPS_PER_S)
    pairs = 4096 * 4097 / 2
    prompt_s = SPEC.latent_s("prefill", 1, 4096, LATENT)
    expanded = 2 * 128 * pairs * (128 + 64 + 128)
    assert prompt_s == pytest.approx(KERNEL_FIXED_S + expanded / FLOPS_PER_S)


def test_an_indexer_pays_for_scores_and_attends_to_the_chosen() -> None:
    indexed = replace(LATENT, indexer=Indexer(heads=64, head_dim=128, chosen_tokens=2048))
    for phase in ("prefill", "decode"):
        short_s, whole_s = (SPEC.latent_s(phase, 8, 1024, each) for each in (indexed, LATENT))
        assert short_s > whole_s
        long_s, whole_s = (SPEC.latent_s(phase, 8, 131072, each) for each in (indexed, LATENT))
        assert long_s < whole_s


def test_a_recurrent_mixer_moves_its_state_whatever_the_context() -> None:
    short_s, long_s = (SPEC.recurrent_s("decode", 256, c, DELTA) for c in (16, 131072))
    vectors = 2 * (10240 + 48 * 128 + 2 * 4 * 10240)
    expected_s = 2 * KERNEL_FIXED_S + 256 * (2 * 48 * 128 * 128 * 2 + vectors) / BYTES_PER_S
    assert short_s == long_s == pytest.approx(expected_s)
    one_s, two_s = (SPEC.recurrent_s("prefill", 1, s, DELTA) for s in (65536, 131072))
    assert two_s - one_s == pytest.approx(one_s - 2 * KERNEL_FIXED_S, rel=0.01)
    wide = replace(DELTA, state_element_bytes=4)
    assert SPEC.recurrent_s("decode", 256, 1, wide) > 1.8 * short_s


def test_fitted_parts_are_used_and_survive_their_file() -> None:
    parts = {"fp16": PartModel(Roofline(1e-5, 1e13, 1e12), None, 100)}
    fitted = replace(MEASURED, experts=parts)
    sizes = experts_sizes(512, MIXTURE, 2048, 16)
    assert fitted.experts_s("fp16", 512, MIXTURE, 2048) == parts["fp16"].time_s(sizes)
    trees = replace(fitted, experts={"fp16": corrected(ExpertsSizes, np.log(2))})
    doubled_s = trees.experts_s("fp16", 512, MIXTURE, 2048)
    assert doubled_s == pytest.approx(2 * fitted.experts_s("fp16", 512, MIXTURE, 2048))
    aliased = replace(trees, aliases={"bf16": "fp16", "int8": "fp16"})
    assert aliased.experts_s("bf16", 512, MIXTURE, 2048) == doubled_s
    own = replace(aliased, experts={**trees.experts, "int8": parts["fp16"]})
    read_s = aliased.experts_s("int8", 16, MIXTURE, 2048)
    assert own.experts_s("int8", 16, MIXTURE, 2048) < read_s
    content: Any = parse_json(json_text(to_dict(trees)), "lab.json")
    assert from_dict(DeviceProfile, Fields(content, "lab.json")) == trees
    content["experts"]["int9"] = content["experts"].pop("fp16")
    with pytest.raises(InputError, match=r"experts: expected fp16, .* as keys, got 'int9'"):
        from_dict(DeviceProfile, Fields(content, "lab.json"))


def test_a_measured_profile_says_which_parts_follow_a_roofline() -> None:
    kinds = [
        LayerKind(4096, WINDOW, MIXTURE, 0, 8192),
        LayerKind(4096, LATENT, Dense(8192), 0, 8192),
        LayerKind(4096, DELTA, None, 0, 8192),
    ]
    said = assumed_parts(MEASURED, kinds, ("fp16", "int4"))
    assert [text.split(" follows")[0] for text in said] == [
        f"lab/spec: {part}"
        for part in (
            "attention within a window in prefill",
            "attention within a window in decode",
            "a mixture of experts in fp16",
            "a mixture of experts in int4",
            "latent attention in prefill",
            "latent attention in decode",
            "the recurrence gated-delta in prefill",
            "the convolution of recurrent mixers in prefill",
            "the recurrence gated-delta in decode",
            "the convolution of recurrent mixers in decode",
        )
    ]
    timed = replace(MEASURED, experts={"fp16": corrected(ExpertsSizes, 0.0)})
    assert len(assumed_parts(timed, kinds[:1], ("fp16",))) == 2
    assert assumed_parts(SPEC, kinds, ("fp16",)) == ()
    assert assumed_parts(MEASURED, [LayerKind(4096, PLAIN, Dense(8192), 0, 0)], ("fp16",)) == ()


def test_a_model_without_a_part_names_the_same_profile_as_if_it_were_not_timed() -> None:
    parts: dict[str, Any] = {"fp16": corrected(ExpertsSizes, 0.1)}
    timed = replace(MEASURED, experts=parts, part_notes=("Experts were timed.",))
    dense = LayerKind(4096, PLAIN, Dense(8192), 0, 8192)
    mixture = LayerKind(4096, PLAIN, MIXTURE, 0, 8192)
    assert needed_parts(timed, [dense]) == MEASURED
    assert needed_parts(MEASURED, [dense, mixture]) is MEASURED
    assert needed_parts(timed, [dense, mixture]) is timed
    windows = {"decode": corrected(WindowSizes, 0.1)}
    both = replace(timed, windows=windows)
    assert needed_parts(both, [mixture]) == timed
    assert needed_parts(both, [LayerKind(4096, WINDOW, None, 0, 0)]).experts == {}
    doubted = replace(timed, part_error_fractions={"experts": 0.4, "latent": 0.9})
    assert needed_parts(doubted, [dense]) == MEASURED
    trusted = needed_parts(doubted, [mixture])
    assert trusted.error_fraction == 0.4 > MEASURED.error_fraction
    assert needed_parts(trusted, [mixture]) is trusted

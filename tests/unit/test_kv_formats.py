"""Formats of the KV cache: bytes, reads, losses, and the choice among them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from llmpq_sim.api.kv_choice import fastest_of_caches, with_kv_format
from llmpq_sim.api.planned import Planned
from llmpq_sim.api.planning import plan
from llmpq_sim.api.quality_target import QualityOptions
from llmpq_sim.api.verification import verify
from llmpq_sim.core.errors import InfeasibleError, InputError
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.kv_formats import KV_FORMATS, PLAIN, kv_formats_listed
from llmpq_sim.core.layers import Attention, Dense, LayerKind, Recurrent
from llmpq_sim.io.models import load_model
from llmpq_sim.io.plans import load_plan
from llmpq_sim.latency.costs import mixer_s
from llmpq_sim.latency.spec import spec_profile, sustained_bytes_per_s
from llmpq_sim.quality.cache_loss import NOISY_SHARE, nominal_cache_loss_nats, with_cache_loss
from llmpq_sim.quality.table import QualityTable, nominal_quality
from llmpq_sim.search.planner import SearchSettings
from tests.measured import lab_device

MODEL = load_model("opt-125m")
KIND = LayerKind(4096, Attention(32, 8, 128, 128), Dense(14336), 0, 0)
WINDOWED = replace(KIND, mixer=Attention(32, 8, 128, 128, window=512))


def kept(name: str, kind: LayerKind = KIND) -> LayerKind:
    return replace(kind, kv_format=name)


CLUSTER = """\
schema: llmpq/cluster
version: 1
name: lab
device_types: [{name: card, memory_gib: 2, memory_gb_per_s: 300, fp16_tflops: 60}]
nodes:
  - name: node-0
    link: {latency_us: 10, gb_per_s: 10}
    devices: [{type: card, count: 2}]
"""


@pytest.fixture
def lab(tmp_path: Path) -> str:
    path = tmp_path / "lab.yaml"
    path.write_text(CLUSTER, encoding="utf-8")
    return str(path)


def planned(lab: str, kv_formats: str | None, quality: str = "int4") -> Planned:
    return plan(
        model=MODEL, cluster=lab, batch=4, prompt_tokens=512, output_tokens=8,
        kv_formats=kv_formats, quality=QualityOptions(quality), formats="fp16",
        settings=SearchSettings(generations=0, only_plans=True),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "bits"),
    [(PLAIN, 16.0), ("fp8", 8.0), ("int8", 8 + 32 / 128), ("q8_0", 8 + 16 / 32),
     ("q4_0", 4 + 16 / 32)],
)  # fmt: skip
def test_a_cache_takes_its_bits_scales_included(name: str, bits: float) -> None:
    assert KV_FORMATS[name].bits == bits
    elements = 8 * 256  # of a token
    for tokens in (1, 7, 1000):
        assert kept(name).cache_bytes(3, tokens) == 3 * tokens * elements * bits / 8
        windowed = kept(name, WINDOWED)
        assert windowed.cache_bytes(3, tokens) == 3 * min(tokens, 512) * elements * bits / 8


def test_names_have_the_spellings_of_engines() -> None:
    assert kv_formats_listed("bf16, fp8,fp16", "x") == (PLAIN, "fp8")
    with pytest.raises(InputError, match=r"^x: expected a KV cache format \(16-bit, bf16, .*'f4'"):
        kv_formats_listed(["f4"], "x")


@pytest.mark.parametrize("kind", [KIND, WINDOWED])
def test_decode_saves_what_is_no_longer_read_and_never_more_than_in_proportion(
    kind: LayerKind,
) -> None:
    device = lab_device()
    profile, batch = spec_profile(device), np.array([1.0, 32.0, 32.0])
    tokens = np.array([16.0, 512.0, 8192.0])
    plain_s = mixer_s(kind, profile, "decode", batch, tokens)
    for name in ("fp8", "q4_0"):
        share = KV_FORMATS[name].bits / 16
        narrow_s = mixer_s(kept(name, kind), profile, "decode", batch, tokens)
        read = tokens if kind is KIND else np.minimum(tokens, 512)
        saved_s = (1 - share) * 2 * 2048 * batch * read / sustained_bytes_per_s(device)
        np.testing.assert_allclose(narrow_s, np.maximum(plain_s - saved_s, share * plain_s))
        assert (narrow_s < plain_s).all()
    plain, narrow = (
        mixer_s(each, profile, "prefill", batch, tokens) for each in (kind, kept("fp8", kind))
    )
    assert np.array_equal(plain, narrow)


def test_states_of_fixed_size_stay_as_they_are() -> None:
    state = Recurrent("mamba-2", (), 8, 64, 64, 8 * 64 * 64, 2, 512, 1024)
    model = replace(MODEL, kinds=(replace(KIND, mixer=state), KIND), kind_of_layer=(0, 1))
    changed = with_kv_format(model, "fp8")
    assert [kind.kv_format for kind in changed.kinds] == [PLAIN, "fp8"]
    assert changed.kinds[0].cache_bytes(2, 9) == model.kinds[0].cache_bytes(2, 9)


def test_a_cache_loses_as_much_noise_in_two_of_seven_matrices() -> None:
    assert nominal_cache_loss_nats(PLAIN) == 0.0
    fp8 = NOISY_SHARE * nominal_quality(1).uniform_loss("fp8")
    assert nominal_cache_loss_nats("fp8") == pytest.approx(fp8)
    assert KV_FORMATS["q4_0"].steps == FORMATS["q4_0"].steps
    assert KV_FORMATS["q8_0"].steps == FORMATS["q8_0"].steps
    table = nominal_quality(MODEL.layers)
    with_fp8 = with_cache_loss(table, with_kv_format(MODEL, "fp8"))
    for name in ("fp16", "int4"):
        assert with_fp8.uniform_loss(name) == pytest.approx(table.uniform_loss(name) + fp8)
    assert with_cache_loss(table, MODEL) is table
    indicator = QualityTable("LLM-PQ variance indicator", table.losses)
    with pytest.raises(InputError, match=r"^--kv-formats: .* does not add to LLM-PQ variance"):
        with_cache_loss(indicator, with_kv_format(MODEL, "fp8"))


def test_int8_scales_of_a_head_make_its_noise() -> None:
    """On normal heads of 128, on int4's scale as weight formats have it."""
    heads = np.random.default_rng(0).normal(size=(4000, 128))
    scales = np.abs(heads).max(axis=1, keepdims=True) / 127
    noise = np.sqrt(np.mean((np.round(heads / scales) * scales - heads) ** 2))
    assert KV_FORMATS["int8"].steps == pytest.approx(7 * 0.0999 / noise, rel=0.02)


def test_the_fastest_of_the_caches_is_planned_saved_and_proven(lab: str, tmp_path: Path) -> None:
    plain, both = planned(lab, None), planned(lab, "bf16,fp8")
    assert both.best.makespan_s < plain.best.makespan_s
    (note,) = both.notes
    assert note.startswith("KV cache: fp8, which counts as losing 0.0012 nats")
    assert note.endswith("tokens/s")
    both.save(tmp_path / "plan.json")
    saved = load_plan(tmp_path / "plan.json", {})
    assert saved.plan == both.best.plan
    assert {kind.kv_format for kind in saved.task.costs.scenario.model.kinds} == {"fp8"}
    assert verify(saved).gap_fraction == pytest.approx(both.gap_fraction)
    assert both.best.loss <= both.batch.task.budget == plain.batch.task.budget
    assert planned(lab, "bf16").content == plain.content


def test_a_cache_that_loses_too_much_is_left_out_and_said(lab: str) -> None:
    (note,) = planned(lab, "q4_0,bf16", quality="0.001").notes
    assert note == (
        "KV cache: 16-bit, which loses nothing; q4_0 has no plan within memory and quality"
    )

    def none(_: object) -> Planned:
        raise InfeasibleError("no room")

    with pytest.raises(InfeasibleError, match="no room"):
        fastest_of_caches(MODEL, ["fp8", "q4_0"], none)
    with pytest.raises(InputError, match=r"^--kv-formats: a search for a trace takes one format"):
        plan(model=MODEL, cluster=lab, trace="azure-conv", kv_formats="bf16,fp8")

"""Law of measured quality: a layer at a time gives what the whole model loses."""

import math
import weakref
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.io.quality import quality_from_dict, quality_to_dict
from runtimes.quality import layer_stages
from runtimes.quality.candidates import mixed_candidates
from runtimes.quality.indicating import measure_indicator
from runtimes.quality.measured_model import open_measured_model, prepared_run
from runtimes.quality.measuring import measure_kl, reference_nats
from runtimes.quality.streaming import stream
from runtimes.torch_pipeline.engine.stage import load_stage
from tests.runtimes.processors import PROCESSORS, bfloat16_instructions
from tests.runtimes.quality_subjects import (
    plain_cross_entropy_nats,
    plain_divergence_nats,
    plain_logits,
    quality_settings,
    save_subject,
)

processor = pytest.fixture(autouse=True, params=PROCESSORS)(bfloat16_instructions)

LAYERS = 3
NAMES = ("llama-tied", "opt", "bloom", "gpt2", "granite", "gemma2", "mixtral", "gpt_oss")
"""Families whose layers or ends are loaded each in another way."""

CLOSE = 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_a_layers_kl_is_that_of_the_whole_model_with_its_weights_replaced(
    tmp_path: Path, name: str
) -> None:
    model, text = save_subject(tmp_path, name, layers=LAYERS)
    settings = quality_settings(model, text, windows=1)
    measured_model = open_measured_model(settings)
    measured = measure_kl(measured_model, settings)
    windows = measured_model.windows.tokens
    reference = plain_logits(model, {}, windows)
    entropy = plain_cross_entropy_nats(reference, windows)
    assert measured.reference_nats == pytest.approx(entropy[0], rel=1e-6)
    assert len(measured.rows) == LAYERS * 3
    for row in measured.rows:
        logits = plain_logits(model, {row.layer: row.format}, windows)
        expected = plain_divergence_nats(reference, logits)[0]
        assert row.loss == pytest.approx(expected, rel=CLOSE)
        increase = plain_cross_entropy_nats(logits, windows)[0] - entropy[0]
        assert row.cross_entropy_increase == pytest.approx(increase, abs=1e-6)
        assert row.standard_error == 0.0


def test_every_choice_of_an_expert_is_counted(tmp_path: Path) -> None:
    model, text = save_subject(tmp_path, "qwen2_moe", layers=LAYERS)
    settings = quality_settings(model, text, formats=("int8",))
    measured_model = open_measured_model(settings)
    measured = measure_kl(measured_model, settings)
    tokens = sum(map(len, measured_model.windows.tokens))
    whole = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    batch = torch.tensor(measured_model.windows.tokens)
    with torch.no_grad():
        scores = whole(batch, output_router_logits=True).router_logits
    assert [each.layer for each in measured.expert_use] == [0, 1]  # the last one is dense
    for used, logits in zip(measured.expert_use, scores, strict=True):
        assert sum(used.choices) == 2 * tokens
        chosen = logits.topk(2).indices.flatten()
        assert list(used.choices) == chosen.bincount(minlength=4).tolist()
    assert quality_from_dict(Fields(quality_to_dict(measured), "q.json")) == measured


def test_an_indicator_of_experts_is_refused(tmp_path: Path) -> None:
    model, text = save_subject(tmp_path, "mixtral", layers=1)
    settings = quality_settings(model, text)
    with pytest.raises(InputError, match=r"has experts, .* measure the loss itself, --method kl"):
        measure_indicator(open_measured_model(settings), settings, "variance")


def test_windows_are_averaged_with_their_standard_error(tmp_path: Path) -> None:
    model, text = save_subject(tmp_path, layers=2)
    settings = quality_settings(model, text, windows=5, formats=("int4",))
    measured_model = open_measured_model(settings)
    windows = measured_model.windows.tokens
    assert len(windows) == 5
    reference = plain_logits(model, {}, windows)
    for row in measure_kl(measured_model, settings).rows:
        nats = plain_divergence_nats(reference, plain_logits(model, {row.layer: "int4"}, windows))
        spread = torch.tensor(nats, dtype=torch.float64).std().item()
        assert row.loss == pytest.approx(sum(nats) / 5, rel=CLOSE)
        assert row.standard_error == pytest.approx(spread / math.sqrt(5), rel=1e-3)


def test_a_mixed_assignments_kl_is_that_of_the_whole_model(tmp_path: Path) -> None:
    model, text = save_subject(tmp_path)
    settings = quality_settings(model, text, quantizers={"int3": "hqq"})
    measured_model = open_measured_model(settings)
    windows = measured_model.windows.tokens
    mixed = mixed_candidates(4, settings.formats, measured_model.plain, 6, seed=3)
    compared = stream(
        prepared_run(measured_model, mixed, settings), resume=False, on_progress=ignore
    )
    reference = plain_logits(model, {}, windows)
    for candidate, nats in zip(mixed, compared.divergence_nats.tolist(), strict=True):
        formats = {i: name for i, name in enumerate(candidate.formats) if name.startswith("int")}
        logits = plain_logits(model, formats, windows, {"int3": "hqq"})
        assert nats == pytest.approx(plain_divergence_nats(reference, logits), rel=CLOSE)


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_sixteen_bits_lose_exactly_nothing(tmp_path: Path, dtype: str) -> None:
    model, text = save_subject(tmp_path, layers=2)
    settings = quality_settings(model, text, dtype=dtype)
    measured_model = open_measured_model(settings)
    candidates = mixed_candidates(2, (), measured_model.plain, 1, seed=0)
    compared = stream(
        prepared_run(measured_model, candidates, settings), resume=False, on_progress=ignore
    )
    assert compared.divergence_nats.tolist() == [[0.0] * 3]
    assert compared.cross_entropy_nats[0].tolist() == compared.cross_entropy_nats[1].tolist()
    assert reference_nats(compared) > 0


def test_the_number_of_windows_at_once_changes_nothing_that_counts(tmp_path: Path) -> None:
    model, text = save_subject(tmp_path, layers=2)
    five = quality_settings(model, text, windows=5, formats=("int4",))
    measured = measure_kl(open_measured_model(five), five)
    # A window is attended to alone: its KL is the same with others beside it.
    measured_model = open_measured_model(five)
    nats = []
    for window in measured_model.windows.tokens:
        reference = plain_logits(model, {}, [window])
        nats += plain_divergence_nats(reference, plain_logits(model, {1: "int4"}, [window]))
    assert measured.rows[1].loss == pytest.approx(sum(nats) / 5, rel=CLOSE)


@pytest.mark.parametrize("method", ["kl", "variance"])
def test_no_more_than_one_layer_is_ever_held(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    model, text = save_subject(tmp_path)
    alive: list[int] = []
    loaded: list[weakref.ref[Any]] = []

    def noted(*arguments: Any) -> Any:
        alive.append(sum(held() is not None for held in loaded))
        stage = load_stage(*arguments)
        loaded.append(weakref.ref(stage._model))
        return stage

    monkeypatch.setattr(layer_stages, "load_stage", noted)
    settings = quality_settings(model, text, check=2)
    measured_model = open_measured_model(settings)
    if method == "kl":
        measure_kl(measured_model, settings)
        assert len(loaded) == 1 + 4 * 4 + 1  # each layer in four formats, and both ends
    else:
        measure_indicator(measured_model, settings, "variance")
        assert len(loaded) == 1 + 4
    assert set(alive) == {0}


def test_rows_come_in_the_order_of_layers_and_formats(tmp_path: Path) -> None:
    model, text = save_subject(tmp_path, layers=2)
    settings = quality_settings(model, text, formats=("int8", "int4"))
    rows = measure_kl(open_measured_model(settings), settings).rows
    assert [(row.layer, row.format) for row in rows] == [
        (0, "int8"), (0, "int4"), (1, "int8"), (1, "int4"),
    ]  # fmt: skip


@pytest.mark.parametrize("method", ["variance", "variance-stochastic", "hessian"])
def test_an_indicator_has_a_row_for_each_layer_and_format(tmp_path: Path, method: Any) -> None:
    model, text = save_subject(tmp_path, layers=3)
    settings = quality_settings(model, text)
    measured = measure_indicator(open_measured_model(settings), settings, method)
    assert measured.method == method
    assert measured.reference_nats is None
    for layer in range(3):
        loss = {row.format: row.loss or 0.0 for row in measured.rows if row.layer == layer}
        assert loss["int3"] > loss["int4"] > loss["int8"] > 0


def ignore(_: object) -> None:
    """Do nothing with progress."""

"""Measurements of quality: sums judged as stated, divergence marked, bad input refused."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from llmpq_sim.core.errors import InputError
from llmpq_sim.quality.measured import MeasuredLoss
from runtimes.quality import layer_stages
from runtimes.quality.candidates import (
    Candidate,
    formats_at,
    mixed_candidates,
    passing,
    single_layer_candidates,
    with_plain_format,
)
from runtimes.quality.divergence import (
    divergence_nats,
    estimate,
    has_diverged,
    log_probabilities,
)
from runtimes.quality.indicating import measure_indicator
from runtimes.quality.measured_model import open_measured_model
from runtimes.quality.measuring import additivity, measure_kl
from runtimes.quality.progress import MeasurementProgress, StreamProgress, Work
from runtimes.quality.settings import chosen_formats
from tests.runtimes.quality_subjects import quality_settings, save_subject

FORMATS = ("int3", "int4", "int8")


def with_tensor(model: Path, name: str, value: float) -> None:
    """Fill a tensor of a model with a number."""
    tensors = load_file(model / "model.safetensors")
    tensors[name] = torch.full_like(tensors[name], value)
    save_file(tensors, model / "model.safetensors", {"format": "pt"})


# ---- candidates


@given(layers=st.integers(1, 6), seed=st.integers(0, 9), count=st.integers(0, 4))
def test_every_candidate_passes_each_layer_from_its_start_on_once(
    layers: int, seed: int, count: int
) -> None:
    candidates = [
        *single_layer_candidates(layers, FORMATS, "bf16"),
        *mixed_candidates(layers, FORMATS, "bf16", count, seed),
    ]
    work = Work(candidates, layers, 0.0)
    for layer in range(layers):
        names = ("bf16", *formats_at(candidates, layer))
        passed = [each for name in names for each in passing(candidates, layer, name)]
        assert sorted(number for number, _ in passed) == [
            number for number, candidate in enumerate(candidates) if candidate.start <= layer
        ]
        assert all(starts == (candidates[number].start == layer) for number, starts in passed)
        assert work.passes_of(layer) == 1 + len(passed)
        assert work.loads_of(layer) == len(names)


@given(layers=st.integers(1, 40), formats=st.integers(1, 3))
def test_single_layers_take_half_of_all_passes(layers: int, formats: int) -> None:
    work = Work(single_layer_candidates(layers, FORMATS[:formats], "bf16"), layers, 0.0)
    assert work.layer_passes == layers + formats * layers * (layers + 1) // 2
    assert work.model_passes == pytest.approx(1 + formats * (layers + 1) / 2)


def test_layers_that_are_not_quantized_have_one_format() -> None:
    assert with_plain_format(("fp16", "int4", "bf16"), "bf16") == Candidate(
        ("bf16", "int4", "bf16")
    )
    assert Candidate(("bf16", "int4", "bf16")).start == 1
    assert Candidate(("fp16", "fp16")).start == 2


@pytest.mark.parametrize(
    ("text", "expected"),
    [(None, FORMATS), ("int8", ("int8",)), ("int4, int8,int4", ("int4", "int8"))],
)
def test_formats_are_those_that_are_listed(text: str | None, expected: tuple[str, ...]) -> None:
    assert chosen_formats(text) == expected


@pytest.mark.parametrize(("text", "said"), [("bf16", "which loses nothing"), ("int7", "'int7'")])
def test_formats_that_lose_nothing_or_are_unknown_are_refused(text: str, said: str) -> None:
    with pytest.raises(InputError, match=said):
        chosen_formats(text)


# ---- divergence


def test_kl_of_two_tokens_has_a_closed_form() -> None:
    logits = [torch.tensor([[0.0, math.log(ratio)]]) for ratio in (1.0, 3.0)]
    half, quarter = (log_probabilities(each) for each in logits)
    expected = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    assert divergence_nats(half, quarter).item() == pytest.approx(expected, rel=1e-6)
    assert divergence_nats(half, half).item() == 0.0


@pytest.mark.parametrize("scale", [1.0, 30.0, 1000.0])
def test_kl_is_never_negative_and_finite_for_peaked_predictions(scale: float) -> None:
    torch.manual_seed(0)
    one, other = (log_probabilities(torch.randn(50, 200) * scale) for _ in range(2))
    nats = divergence_nats(one, other)
    assert bool((nats >= 0).all())
    assert bool(nats.isfinite().all())


def test_an_estimate_is_the_mean_with_its_standard_error() -> None:
    assert estimate([1.0, 2.0, 3.0]).mean == 2.0
    assert estimate([1.0, 2.0, 3.0]).standard_error == pytest.approx(1 / math.sqrt(3))
    assert estimate([5.0]).standard_error == 0.0


@pytest.mark.parametrize(
    ("nats", "expected"),
    [([0.1, 9.0], False), ([9.9, 10.2], True), ([0.1, math.nan], True), ([math.inf], True)],
)
def test_what_is_above_ten_nats_or_no_number_has_diverged(
    nats: list[float], expected: bool
) -> None:
    assert has_diverged(nats) == expected


# ---- sums


def rows_of(losses: dict[tuple[int, str], float | None]) -> list[MeasuredLoss]:
    return [
        MeasuredLoss(layer, name, loss, 0.0, 0.0, 0.0) for (layer, name), loss in losses.items()
    ]


def test_the_error_of_sums_is_a_percentile_of_relative_errors() -> None:
    rows = rows_of({(0, "int4"): 0.1, (0, "int8"): 0.01, (1, "int4"): 0.2, (1, "int8"): None})
    mixed = [Candidate(each) for each in (
        ("int4", "int4"), ("int8", "int4"), ("int8", "int8"), ("int4", "bf16"), ("int4", "int4"),
        ("int4", "int4"),
    )]  # fmt: skip
    nats = np.array([[0.2, 0.2], [0.2, 0.22], [0.1, 0.1], [0.5, 0.5], [1e-9, 1e-9], [math.nan, 1]])
    found = additivity(rows, mixed, nats)
    assert found is not None
    assert found.assignments == 2  # a diverged layer, one layer alone, no KL, diverged: not counted
    errors = [abs(0.3 - 0.2) / 0.2, 0.0]
    assert found.error_fraction == pytest.approx(np.quantile(errors, 0.9))
    assert additivity(rows, [], np.zeros((0, 2))) is None


def test_mixed_assignments_are_measured_in_the_same_passes(tmp_path: Path) -> None:
    model, text = save_subject(tmp_path)
    without = quality_settings(model, text)
    alone = measure_kl(open_measured_model(without), without)
    assert alone.additivity is None
    with_check = quality_settings(model, text, check=6, work_dir=tmp_path / "other.work")
    checked = measure_kl(open_measured_model(with_check), with_check)
    assert checked.rows == alone.rows
    assert checked.additivity is not None
    assert 3 <= checked.additivity.assignments <= 6
    assert 0 < checked.additivity.error_fraction < 0.5


# ---- what diverges, and what cannot be measured


def test_a_layer_that_diverges_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, text = save_subject(tmp_path, layers=2)
    plain = layer_stages.LayerSource.layer

    def broken(self: Any, number: int, format_name: str) -> Any:
        stage = plain(self, number, format_name)
        if (number, format_name) == (1, "int3"):
            for buffer in stage._model.buffers():
                if buffer.is_floating_point():
                    buffer.fill_(math.nan)
        return stage

    monkeypatch.setattr(layer_stages.LayerSource, "layer", broken)
    settings = quality_settings(model, text, formats=("int3", "int8"))
    measured = measure_kl(open_measured_model(settings), settings)
    assert [(row.layer, row.format) for row in measured.rows if row.diverged] == [(1, "int3")]
    assert measured.table(2).losses["int3"][1] == math.inf
    assert measured.table(2).losses["int3"][0] < math.inf


@pytest.mark.parametrize(
    ("tensor", "where"),
    [("model.layers.1.mlp.down_proj.weight", "layer 1"), ("lm_head.weight", "the LM head")],
)
def test_a_model_that_gives_no_finite_numbers_is_refused(
    tmp_path: Path, tensor: str, where: str
) -> None:
    model, text = save_subject(tmp_path, layers=2)
    with_tensor(model, tensor, math.inf)
    settings = quality_settings(model, text, formats=("int8",), windows=2)
    if where == "layer 1":  # infinite weights cannot be quantized; the 16-bit model comes first
        settings = quality_settings(model, text, formats=("int8",), dtype="fp16")
    with pytest.raises(InputError) as error:
        measure_kl(open_measured_model(settings), settings)
    assert str(error.value).startswith(
        f"window 0 of the text: after {where} the 16-bit model gives numbers that are not finite"
    )
    assert not settings.work_dir.exists()  # nothing to go on with


def test_a_window_that_overflows_is_named(tmp_path: Path) -> None:
    model, _ = save_subject(tmp_path, layers=2)
    settings = quality_settings(model, None, windows=4)
    measured_model = open_measured_model(settings)
    others = (measured_model.windows.tokens[i] for i in (0, 1, 3))
    only = set(measured_model.windows.tokens[2]).difference(*others)
    assert only
    tensors = load_file(model / "model.safetensors")
    tensors["model.embed_tokens.weight"][sorted(only)] = math.nan
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match="window 2 of the text: after layer 0"):
        measure_kl(open_measured_model(settings), settings)


def test_an_indicator_of_a_model_without_finite_numbers_is_refused(tmp_path: Path) -> None:
    model, text = save_subject(tmp_path, layers=2)
    with_tensor(model, "model.layers.0.input_layernorm.weight", math.nan)
    settings = quality_settings(model, text)
    with pytest.raises(InputError, match="expected finite numbers"):
        measure_indicator(open_measured_model(settings), settings, "variance")


# ---- progress


def test_the_rest_is_forecast_from_loads_and_passes() -> None:
    told: list[StreamProgress] = []
    work = Work(single_layer_candidates(2, ("int4",), "bf16"), 2, 0.5)
    progress = MeasurementProgress(work, 0, told.append)
    for _ in range(2):
        progress.loaded(3.0)
        progress.passed(0, 1.0)
    assert told[-1].left_s is None  # the first layer is still at work
    progress.loaded(3.0)
    progress.passed(1, 1.0)
    passes_left = 2 + 0.5 * 3  # the second layer has three, and three streams pass the LM head
    assert told[-1].left_s == pytest.approx(3.0 * 1 + 1.0 * passes_left)
    assert told[-1].fraction == pytest.approx(3 / (5 + 1.5))

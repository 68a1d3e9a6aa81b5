"""Evidence on a trained model: sums over layers tell a plan's loss, and promises are kept.

The whole evidence, on a larger model, is printed by ``python -m tests.evidence``.
"""

from itertools import product
from pathlib import Path
from statistics import mean, median
from typing import Literal

import numpy as np
import pytest
import torch

from runtimes.quality.indicating import measure_indicator
from runtimes.quality.measured_model import open_measured_model
from runtimes.quality.measuring import measure_kl
from runtimes.quality.settings import QualitySettings
from tests.evidence.experiment import (
    SMALL_LOSS_NATS,
    Evidence,
    Scale,
    all_losses,
    experiment,
    median_loss,
    rank_correlation,
)
from tests.evidence.plain_indicators import indicator_table, observed_inputs
from tests.evidence.plans import best_plan, random_plan
from tests.evidence.whole_model import (
    CHOICES,
    QUANTIZED,
    Table,
    load_whole_model,
    loss_table,
    predicted,
    text_of,
)
from tests.trained_model import HELD_OUT, SMALL, Training, trained_model

LAYER_BYTES = {"bf16": 160, "int8": 81, "int4": 43, "int3": 35}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return trained_model(tmp_path_factory.mktemp("trained"), SMALL)


@pytest.fixture(scope="module")
def evidence(folder: Path) -> Evidence:
    return experiment(folder, Scale(windows=8, random_plans=5, amplifications=(1, 4)))


# ---- the experiment


@pytest.mark.slow
def test_layers_differ_as_those_of_a_trained_model(evidence: Evidence) -> None:
    assert evidence.reference_nats < 5  # where chance has ln(1000) = 6.9
    for name in QUANTIZED:
        assert max(evidence.losses[name]) > 3 * min(evidence.losses[name])


@pytest.mark.slow
def test_sums_over_layers_rank_mixed_plans_and_tell_their_loss(evidence: Evidence) -> None:
    for amplification in (1, 4):
        sums = [each for each in evidence.sums if each.amplification == amplification]
        assert rank_correlation([s.predicted for s in sums], [s.measured for s in sums]) >= 0.95
        small = [each.error for each in sums if each.measured < SMALL_LOSS_NATS]
        assert len(small) >= 25
        assert median(small) <= 0.15


@pytest.mark.slow
@pytest.mark.parametrize("name", ["variance", "hessian"])
def test_indicators_rank_layers_and_formats_nearly_as_measured_loss(
    evidence: Evidence, name: str
) -> None:
    table = evidence.indicators[name]
    assert rank_correlation(all_losses(table), all_losses(evidence.losses)) >= 0.8


@pytest.mark.slow
def test_plans_under_any_table_beat_random_ones_of_the_same_memory(evidence: Evidence) -> None:
    for method in ("kl", "variance", "hessian"):
        ratios = [
            each[method][0].loss / median_loss(each["random"]) for each in evidence.plans.values()
        ]
        assert mean(ratios) < 0.8


# ---- what measures it


def settings_of(folder: Path, tmp_path: Path) -> QualitySettings:
    """Return settings that measure 4 windows of 64 tokens in float32."""
    text = folder / HELD_OUT
    return QualitySettings(
        folder, text, QUANTIZED, {}, 64, 4, 6, "fp32", "cpu", 0, tmp_path / "work"
    )


@pytest.mark.slow
def test_streamed_losses_are_those_of_the_whole_model(folder: Path, tmp_path: Path) -> None:
    settings = settings_of(folder, tmp_path)
    measured_model = open_measured_model(settings)
    measured = measure_kl(measured_model, settings)
    whole = load_whole_model(folder)
    text = text_of(whole, torch.tensor(measured_model.windows.tokens))
    table = measured.table(len(whole.layers)).losses
    expected = loss_table(whole, text)
    for name in QUANTIZED:
        assert table[name] == pytest.approx(expected[name], rel=1e-3)
    assert measured.reference_nats == pytest.approx(text.cross_entropy(text.reference), rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["variance", "hessian"])
def test_indicators_are_those_of_plain_loops(
    folder: Path, tmp_path: Path, method: Literal["variance", "hessian"]
) -> None:
    settings = settings_of(folder, tmp_path)
    measured_model = open_measured_model(settings)
    measured = measure_indicator(measured_model, settings, method)
    whole = load_whole_model(folder)
    inputs = observed_inputs(whole, torch.tensor(measured_model.windows.tokens))
    expected = indicator_table(whole, inputs, method)
    table = measured.table(len(whole.layers)).losses
    for name in QUANTIZED:
        assert table[name] == pytest.approx(expected[name], rel=1e-4)


# ---- the harness itself


def table_of(seed: int, layers: int) -> Table:
    drawn = np.random.default_rng(seed).exponential(size=(len(QUANTIZED), layers))
    return {name: tuple(row) for name, row in zip(QUANTIZED, drawn.tolist(), strict=True)}


@pytest.mark.parametrize("seed", range(5))
def test_the_best_plan_is_the_best_of_all(seed: int) -> None:
    table, memory_bytes = table_of(seed, 5), 250 + 60 * seed
    plans = [
        plan
        for plan in product(CHOICES, repeat=5)
        if sum(LAYER_BYTES[name] for name in plan) <= memory_bytes
    ]
    least = min(predicted(table, plan) for plan in plans)
    found = best_plan(table, LAYER_BYTES, memory_bytes)
    assert found in plans
    assert predicted(table, found) == pytest.approx(least)


def test_a_random_plan_leaves_no_memory_for_a_better_format() -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        plan = random_plan(6, LAYER_BYTES, 400, rng)
        free = 400 - sum(LAYER_BYTES[name] for name in plan)
        better = {name: CHOICES[max(0, CHOICES.index(name) - 1)] for name in CHOICES}
        assert free >= 0
        assert all(n == "bf16" or LAYER_BYTES[better[n]] - LAYER_BYTES[n] > free for n in plan)


def test_the_same_seed_trains_the_same_model(tmp_path: Path) -> None:
    training = Training(layers=2, hidden=64, steps=3, rows=2, warm_up_steps=1)
    weights = [
        (trained_model(tmp_path / str(n), training, seed) / "model.safetensors").read_bytes()
        for n, seed in enumerate((1, 1, 2))
    ]
    assert weights[0] == weights[1]
    assert weights[1] != weights[2]

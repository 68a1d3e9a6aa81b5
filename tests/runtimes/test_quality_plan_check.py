"""Check of a whole plan: measured as its layers were, missed targets are told."""

import math
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.plans import SavedPlan
from llmpq_sim.quality.measured import Additivity, MeasuredLoss, MeasuredQuality
from runtimes.quality.check_report import check_content, missed_text, show_check
from runtimes.quality.divergence import Estimate
from runtimes.quality.measured_model import MeasuredModel, open_measured_model
from runtimes.quality.measuring import measure_kl
from runtimes.quality.plan_check import PlanCheck, check_plan_quality
from runtimes.quality.report import (
    bars_text,
    quality_content,
    quality_progress,
    show_quality,
    value_text,
)
from runtimes.testing import saved_plan
from tests.runtimes.models import save_model
from tests.runtimes.quality_subjects import quality_settings, save_subject

LAYERS = 3


@pytest.fixture(scope="module")
def measured_model(tmp_path_factory: pytest.TempPathFactory) -> MeasuredModel:
    model, text = save_subject(tmp_path_factory.mktemp("planned"), layers=LAYERS)
    return open_measured_model(quality_settings(model, text))


@pytest.fixture(scope="module")
def measured(measured_model: MeasuredModel) -> MeasuredQuality:
    return measure_kl(measured_model, quality_settings(measured_model.source.folder, None, check=2))


def plan_of(
    measured_model: MeasuredModel, measured: MeasuredQuality | None, *formats: str
) -> SavedPlan:
    """Return a plan of two stages whose losses were measured, or are nominal."""
    saved = saved_plan(measured_model.source.folder, [formats[:1], formats[1:]])
    if measured is None:
        return saved
    task = replace(saved.task, quality=measured.table(LAYERS), budget=0.05)
    return replace(saved, task=task, target=replace(saved.target, measured=measured))


def checked(measured_model: MeasuredModel, saved: SavedPlan) -> PlanCheck:
    return check_plan_quality(
        saved, measured_model, quality_settings(measured_model.source.folder, None)
    )


@pytest.mark.parametrize("name", ["int3", "int4", "int8"])
@pytest.mark.parametrize("layer", range(LAYERS))
def test_a_plan_with_one_quantized_layer_loses_what_the_table_says(
    measured_model: MeasuredModel, measured: MeasuredQuality, layer: int, name: str
) -> None:
    formats = ["fp16"] * LAYERS
    formats[layer] = name
    check = checked(measured_model, plan_of(measured_model, measured, *formats))
    row = next(row for row in measured.rows if (row.layer, row.format) == (layer, name))
    assert check.divergence.mean == row.loss == check.predicted
    assert check.divergence.standard_error == row.standard_error
    increase = check.plan_nats - check.reference_nats
    assert increase == pytest.approx(row.cross_entropy_increase, abs=1e-12)


def test_a_plan_in_16_bits_loses_nothing(
    measured_model: MeasuredModel, measured: MeasuredQuality
) -> None:
    check = checked(measured_model, plan_of(measured_model, measured, "fp16", "bf16", "fp16"))
    assert (check.divergence.mean, check.predicted, check.interval) == (0.0, 0.0, 0.0)
    assert check.plan_nats == check.reference_nats == measured.reference_nats
    assert not check.misses_target


def test_a_plan_of_another_model_is_refused(measured_model: MeasuredModel, tmp_path: Path) -> None:
    other = saved_plan(save_model("llama", tmp_path), [("int4",) * 4])
    with pytest.raises(InputError, match=r"--plan: is of .* 4 layers of width 64; the model in"):
        check_plan_quality(
            other, measured_model, quality_settings(measured_model.source.folder, None)
        )


def test_nominal_losses_are_shown_but_not_compared(measured_model: MeasuredModel) -> None:
    check = checked(measured_model, plan_of(measured_model, None, "int3", "int3", "int3"))
    assert (check.measure, check.is_comparable, check.misses_target) == (
        "nominal nats", False, False,
    )  # fmt: skip
    assert "not to be compared" in shown(check, measured_model)


def made_check(loss: float, *, predicted: float = 0.02, budget: float = 0.03) -> PlanCheck:
    return PlanCheck(
        measure="nats of KL per token",
        predicted=predicted,
        interval=0.005,
        budget=budget,
        divergence=Estimate(loss, 0.001),
        reference_nats=2.0,
        plan_nats=2.0 + loss,
        other_text=None,
    )


@pytest.mark.parametrize(
    ("loss", "misses"), [(0.02, False), (0.0349, False), (0.0351, True), (math.inf, True)]
)
def test_a_plan_misses_its_target_by_more_than_the_interval(loss: float, misses: bool) -> None:
    assert made_check(loss).misses_target == misses


def shown(check: PlanCheck, measured_model: MeasuredModel) -> str:
    console = Console(width=88, record=True, highlight=False)
    show_check(console, check, measured_model.windows.text)
    return console.export_text()


def test_a_check_shows_prediction_and_measurement(measured_model: MeasuredModel) -> None:
    lines = shown(made_check(0.024), measured_model).splitlines()
    assert lines[0] == "0.0240 ± 0.0020 nats of KL per token, measured"
    cells = [line.split() for line in lines]
    assert ["predicted", "0.0200", "±", "0.0050", "7.54"] in cells
    assert ["measured", "0.0240", "±", "0.0020", "7.57"] in cells
    assert lines[-1] == "The plan keeps to its target."
    other = replace(made_check(0.024), other_text="wiki.txt")
    assert "the prediction was measured on another text, wiki.txt" in shown(other, measured_model)


def test_a_missed_target_is_one_line(measured_model: MeasuredModel) -> None:
    assert missed_text(made_check(0.05)) == (
        "the plan misses its target: 0.0500 ± 0.0020 nats of KL per token measured, at most "
        "0.0300 ± 0.0050 expected; search with a smaller budget"
    )
    assert "diverged" in missed_text(made_check(math.inf))
    assert "keeps to its target" not in shown(made_check(0.05), measured_model)
    content = check_content(made_check(math.inf), measured_model.windows.text)
    assert content["measured"]["kl_nats"] is None
    assert content["misses_target"] is True


# ---- the table, shown


def test_a_table_is_shown_by_format(
    measured_model: MeasuredModel, measured: MeasuredQuality
) -> None:
    console = Console(width=88, record=True, highlight=False)
    show_quality(console, measured, LAYERS, "q.json", "model")
    lines = console.export_text().splitlines()
    assert lines[0].startswith("model: nats of KL per token, perplexity ")
    for name in ("int3", "int4", "int8"):
        assert sum(line.startswith(f"{name} ") for line in lines) == 2  # its losses, and its strip
    assert any(line.startswith("sums      over layers are off by at most ") for line in lines)
    assert "  llmpq search --model model --cluster CLUSTER --quality q.json --max-kl 0.03" in lines
    assert all(len(line) <= 88 for line in lines)


def test_what_is_not_known_is_said(measured: MeasuredQuality) -> None:
    rows = tuple(
        replace(row, loss=None, standard_error=0.0) if row.layer == 1 else row
        for row in measured.rows
    )
    console = Console(width=88, record=True, highlight=False)
    text = replace(measured.text, windows=1)
    bare = replace(measured, rows=rows, text=text, additivity=None)
    show_quality(console, bare, LAYERS, "q.json", "model")
    lines = console.export_text()
    assert "1 diverged" in lines
    assert "1 (diverged), 0, 2" in lines
    assert "one window has no standard error" in lines
    assert "compared with no mixed assignment" in lines
    content = quality_content(bare, LAYERS, "q.json")
    assert content["totals"]["int4"] == {"loss": None, "interval": 0.0, "perplexity": None}


def test_machines_are_told_the_totals(measured: MeasuredQuality) -> None:
    content = quality_content(measured, LAYERS, "q.json")
    total = content["totals"]["int4"]
    table = measured.table(LAYERS)
    assert total["loss"] == table.uniform_loss("int4")
    assert total["interval"] == table.interval(("int4",) * LAYERS)
    assert total["perplexity"] == pytest.approx(
        math.exp((measured.reference_nats or 0) + total["loss"])
    )
    assert (
        content["quality"]["additivity"]["assignments"]
        == (measured.additivity or Additivity(0, 0.0)).assignments
    )


def test_a_strip_has_a_bar_for_each_layer() -> None:
    losses = (0.0, 0.5, None, 1.0)
    rows = [MeasuredLoss(i, "int4", loss, 0.0, 0.0, 0.0) for i, loss in enumerate(losses)]
    assert bars_text(rows, 1.0) == "▁▅x█"
    assert bars_text(rows[:1], 0.0) == "▁"
    assert (value_text(0.0123), value_text(1523.53)) == ("0.0123", "1524")


def test_the_time_left_is_told_once(measured_model: MeasuredModel) -> None:
    console = Console(width=88, record=True)
    settings = quality_settings(measured_model.source.folder, None, formats=("int8",))
    with quality_progress(False, console) as on_progress:
        measure_kl(measured_model, settings, on_progress=on_progress)
    assert console.export_text().count("the first layer is timed: about ") == 1

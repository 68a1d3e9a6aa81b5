"""Quality targets in measured units: options that go together, and formats on offer."""

import math
from dataclasses import replace
from pathlib import Path

import pytest

from llmpq_sim.api.quality_target import QualityOptions, load_target, offered_formats
from llmpq_sim.api.tasks import TaskOptions, batch_task
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.scenario import BatchWorkload
from llmpq_sim.io.models import load_model
from llmpq_sim.io.quality import write_quality
from llmpq_sim.io.tasks import QualityTarget
from llmpq_sim.quality.measured import MeasuredQuality
from tests.qualities import Columns, as_indicator, measured_quality

MODEL = load_model("opt-125m")
MEASURED = measured_quality(MODEL)
FORMATS = ("int3", "int4", "int8", "fp16")


def saved(folder: Path, measured: MeasuredQuality = MEASURED) -> Path:
    path = folder / "q.json"
    write_quality(path, measured)
    return path


def refusal(options: QualityOptions) -> str:
    with pytest.raises(InputError) as error:
        load_target(options, MODEL)
    return str(error.value)


def test_without_a_file_the_target_is_nominal_and_int4_unless_told() -> None:
    assert load_target(QualityOptions(), MODEL) == QualityTarget("int4", None)
    assert load_target(QualityOptions("int8"), MODEL) == QualityTarget("int8", None)


def test_a_target_is_in_nats_in_perplexity_or_a_format(tmp_path: Path) -> None:
    path = saved(tmp_path)
    nats = load_target(QualityOptions(max_kl_nats=0.03, measured=path), MODEL)
    assert nats == QualityTarget(None, 0.03, None, MEASURED)
    points = load_target(QualityOptions(max_perplexity_increase=0.5, measured=path), MODEL)
    assert points.most_loss == pytest.approx(math.log(math.exp(3.0) + 0.5) - 3.0)
    at_least = load_target(QualityOptions("int8", measured=path), MODEL)
    assert at_least == QualityTarget("int8", None, None, MEASURED)


def test_an_indicator_takes_a_format_or_a_number_in_its_measure(tmp_path: Path) -> None:
    path = saved(tmp_path, as_indicator(MEASURED, "variance"))
    assert load_target(QualityOptions("4.5", measured=path), MODEL).most_loss == 4.5
    assert load_target(QualityOptions("int8", measured=path), MODEL).at_least == "int8"
    assert refusal(QualityOptions(max_kl_nats=0.1, measured=path)) == (
        "--max-kl: q.json holds the LLM-PQ variance indicator, not KL divergences; give "
        "--quality-at-least with a format or a number in its measure"
    )


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert refusal(QualityOptions("int4", 0.1, measured=path)) == (
        "--max-kl: expected one quality target, got --quality-at-least too"
    )
    assert refusal(QualityOptions(max_kl_nats=0.1)) == (
        "--max-kl: is in measured units; give the file of llmpq quality with --quality"
    )
    assert refusal(QualityOptions(max_perplexity_increase=0.1)).startswith(
        "--max-perplexity-increase: is in measured units"
    )
    assert refusal(QualityOptions("int4", measured=path, sensitivity=path)) == (
        "--sensitivity: --quality has the loss of each layer; leave one out"
    )
    assert refusal(QualityOptions(measured=path)) == (
        "--quality: expected a target in its units, one of --max-kl, --max-perplexity-increase "
        "and --quality-at-least"
    )


@pytest.mark.parametrize("limit", [-1.0, math.nan, math.inf], ids=str)
def test_a_limit_that_is_no_amount_is_refused(tmp_path: Path, limit: float) -> None:
    options = QualityOptions(max_kl_nats=limit, measured=saved(tmp_path))
    assert refusal(options) == f"--max-kl: expected a number of at least 0, got {limit}"


def test_perplexity_needs_that_of_the_16_bit_model(tmp_path: Path) -> None:
    path = saved(tmp_path, replace(MEASURED, reference_nats=None))
    assert refusal(QualityOptions(max_perplexity_increase=1.0, measured=path)) == (
        "--max-perplexity-increase: q.json does not say the perplexity of the 16-bit model; give "
        "--max-kl"
    )


def test_losses_of_another_model_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, measured_quality(load_model("opt-1.3b")))
    assert refusal(QualityOptions("int4", measured=path)).startswith(
        "q.json: was measured with opt-1.3b (shapes "
    )


def test_formats_with_gaps_are_held_back_and_broken_layers_named() -> None:
    columns: Columns = {
        "int4": [0.01] * 12,
        "int3": [None, 0.1, None] + [0.1] * 9,
        "int8": [0.001] * 11,
    }
    kept, notes = offered_formats(FORMATS, measured_quality(MODEL, columns), MODEL.layers)
    assert kept == ("int3", "int4", "fp16")
    assert notes == [
        "int3 is not given to layers it breaks: 0, 2",
        "int8 is not offered: 1 of 12 layers not measured",
    ]
    assert offered_formats(FORMATS, None, 12) == (FORMATS, [])
    assert offered_formats(FORMATS, MEASURED, 12) == (FORMATS, [])
    with pytest.raises(InputError) as error:
        offered_formats(("int8",), measured_quality(MODEL, columns), MODEL.layers)
    assert str(error.value) == (
        "--formats: none of int8 was measured in every layer; measure them with llmpq quality, or "
        "allow some of fp16, bf16, int4, int3"
    )


def options_with(target: QualityTarget) -> TaskOptions:
    return TaskOptions("paper-3", None, "spec", (), target)


def test_a_task_has_the_measured_losses_and_budget() -> None:
    task, notes = batch_task(
        MODEL, BatchWorkload(64, (8,)), options_with(QualityTarget("int4", None, None, MEASURED))
    )
    assert task.quality == MEASURED.table(12)
    assert task.budget == pytest.approx(task.quality.uniform_loss("int4"))
    assert notes == []


def test_a_target_that_was_not_measured_or_breaks_layers_is_refused() -> None:
    columns: Columns = {"int3": [None] + [0.1] * 11, "int4": [0.01] * 11}
    measured = measured_quality(MODEL, columns)
    for name, message in (
        ("int3", "--quality-at-least: int3 breaks some layers, as measured; give another format"),
        ("int4", "quality: expected a format of fp16, bf16, int3, got 'int4'"),
    ):
        target = QualityTarget(name, None, None, measured)
        with pytest.raises(InputError) as error:
            batch_task(MODEL, BatchWorkload(64, (8,)), options_with(target))
        assert str(error.value).startswith(message)

"""Quality tables of measured losses: what is left out, infinite or uncertain."""

import math
from dataclasses import replace

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.models import load_model
from tests.qualities import as_indicator, measured_quality

MODEL = load_model("opt-125m")


def test_a_table_has_the_measured_losses_and_none_at_16_bits() -> None:
    measured = measured_quality(MODEL)
    table = measured.table(MODEL.layers)
    assert list(table.losses) == ["fp16", "bf16", "int8", "int4", "int3"]
    assert table.uniform_loss("fp16") == table.uniform_loss("bf16") == 0.0
    for row in measured.rows:
        assert table.losses[row.format][row.layer] == row.loss
        assert table.standard_errors[row.format][row.layer] == row.standard_error
    assert (table.measure, table.error_fraction) == ("nats of KL per token", 0.05)
    assert table.perplexity(0.0) == measured.reference_perplexity == pytest.approx(math.exp(3.0))


def test_an_indicator_does_not_say_how_far_it_may_be_off() -> None:
    table = as_indicator(measured_quality(MODEL), "hessian").table(12)
    assert (table.is_measured, table.standard_errors, table.error_fraction) == (False, {}, None)
    assert measured_quality(MODEL).table(12).is_measured


def test_rows_may_be_in_any_order() -> None:
    measured = measured_quality(MODEL)
    assert replace(measured, rows=measured.rows[::-1]).table(12) == measured.table(12)


def test_a_format_that_some_layers_lack_is_left_out() -> None:
    measured = measured_quality(MODEL)
    rows = tuple(row for row in measured.rows if (row.format, row.layer) != ("int4", 5))
    partial = replace(measured, rows=rows)
    assert list(partial.table(12).losses) == ["fp16", "bf16", "int8", "int3"]
    assert partial.missing_layers(12) == {"int4": 1}
    assert replace(measured, rows=()).missing_layers(12) == {"int8": 12, "int4": 12, "int3": 12}
    assert measured.missing_layers(12) == {}


def test_a_layer_that_diverged_loses_infinitely() -> None:
    measured = measured_quality(MODEL, {"int3": [None] + [0.1] * 11})
    assert [row.diverged for row in measured.rows] == [True] + [False] * 11
    assert measured.table(12).losses["int3"] == (math.inf,) + (0.1,) * 11


def test_rows_of_layers_that_the_model_lacks_are_refused() -> None:
    with pytest.raises(InputError) as error:
        measured_quality(MODEL).table(11)
    assert str(error.value) == (
        "quality of opt-125m: expected rows of layers 0 to 10, got one of layer 11"
    )

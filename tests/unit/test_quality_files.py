"""Files of measured losses: written, read back, damaged."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.io.files import json_text, parse_json
from llmpq_sim.io.models import load_model
from llmpq_sim.io.quality import (
    check_shape,
    load_quality,
    quality_from_dict,
    quality_to_dict,
    shape_sha256,
    write_quality,
)
from llmpq_sim.quality.measured import (
    MEASURES,
    Additivity,
    MeasuredLoss,
    MeasuredQuality,
    TextFacts,
)
from tests.qualities import as_indicator, measured_quality

MODEL = load_model("opt-125m")
MEASURED = measured_quality(MODEL)

names = st.text("abc-123", min_size=1, max_size=8)
amounts = st.floats(0.0, 1e9)
counts = st.integers(1, 10**9)

QUANTIZED = ", ".join(name for name, each in FORMATS.items() if each.is_quantized)


@st.composite
def measured_qualities(draw: st.DrawFn) -> MeasuredQuality:
    """Any measured losses."""
    method = draw(st.sampled_from(sorted(MEASURES)))
    formats = draw(st.lists(st.sampled_from(["int8", "int4", "int3"]), unique=True))
    cells = [(layer, name) for layer in range(draw(st.integers(0, 3))) for name in formats]
    signed = st.floats(-1e9, 1e9)
    return MeasuredQuality(
        method=method,
        measure=MEASURES[method],
        seed=draw(st.integers(0, 2**32)),
        model_name=draw(names),
        shape_sha256=draw(names),
        weights_sha256=draw(names),
        text=TextFacts(draw(names), draw(names), draw(counts), draw(counts), draw(counts)),
        quantizers={name: draw(st.sampled_from(["rtn", "hqq"])) for name in formats},
        reference_nats=draw(st.none() | st.floats(1e-3, 40.0)),
        additivity=draw(st.none() | st.builds(Additivity, counts, amounts)),
        rows=tuple(
            MeasuredLoss(
                *cell, draw(st.none() | amounts), draw(amounts), draw(signed), draw(amounts)
            )
            for cell in cells
        ),
    )


@given(measured_qualities())
def test_what_is_written_is_read_back(measured: MeasuredQuality) -> None:
    text = json_text(quality_to_dict(measured))
    back = quality_from_dict(Fields(parse_json(text, "q.json"), "q.json"))
    assert back == measured
    assert json_text(quality_to_dict(back)) == text


def test_a_file_gives_back_what_was_measured(tmp_path: Path) -> None:
    write_quality(tmp_path / "q.json", MEASURED)
    assert load_quality(tmp_path / "q.json") == MEASURED


def test_columns_are_found_by_name() -> None:
    content = quality_to_dict(MEASURED)
    swapped = [[row[1], row[0], *row[2:]] for row in content["rows"]]
    names = content["columns"]
    content.update(columns=[names[1], names[0], *names[2:]], rows=swapped)
    assert quality_from_dict(Fields(content, "q.json")) == MEASURED


def changed(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    """Return a change of one value, such as of ``rows.0.2``."""

    def change(content: dict[str, Any]) -> None:
        *keys, last = path.split(".")
        part: Any = content
        for key in keys:
            part = part[int(key)] if isinstance(part, list) else part[key]
        part[int(last) if isinstance(part, list) else last] = value

    return change


DAMAGED = {
    "schema": (changed("schema", "llmpq/plan"), "q.json.schema: expected llmpq/quality, got"),
    "version": (changed("version", 2), "q.json.version: expected 1, got 2; the file was written"),
    "method": (
        changed("method", "mse"),
        "q.json.method: expected one of kl, variance, variance-stochastic, hessian,",
    ),
    "measure": (
        changed("measure", "bits"),
        "q.json.measure: expected one of nats of KL per token, got 'bits'",
    ),
    "quantizer": (
        changed("quantizers.fp16", "rtn"),
        f"q.json.quantizers: expected quantized formats ({QUANTIZED}), got 'fp16'",
    ),
    "perplexity": (
        changed("reference.perplexity", 21.0),
        "q.json.reference.perplexity: expected the exponential of 3.0 nats, got 21.0",
    ),
    "negative": (
        changed("rows.0.2", -0.1),
        "q.json.rows[0].loss: expected a number of at least 0, got -0.1",
    ),
    "no loss": (
        changed("rows.0.2", None),
        "q.json.rows[0].loss: expected a loss, for it did not diverge",
    ),
    "diverged": (
        changed("rows.0.6", True),
        "q.json.rows[0].loss: expected no loss, for it diverged",
    ),
    "twice": (
        changed("rows.1.0", 0),
        "q.json.rows[1]: layer 0 in int8 has a row already",
    ),
    "format": (
        changed("rows.0.1", "fp16"),
        "q.json.rows[0].format: expected one of int8, int4, int3, got 'fp16'",
    ),
    "short": (
        changed("rows.0", [0, "int8"]),
        "q.json.rows[0]: expected a list of 7 values, one per column",
    ),
    "column": (changed("columns.0", "depth"), "q.json.rows[0].layer: expected a whole number of"),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_refused_in_one_line(name: str, tmp_path: Path) -> None:
    change, message = DAMAGED[name]
    content = json.loads(json_text(quality_to_dict(MEASURED)))
    change(content)
    path = tmp_path / "q.json"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(InputError) as error:
        load_quality(path)
    assert str(error.value).startswith(message)
    assert "\n" not in str(error.value)


def test_a_model_is_known_by_its_shapes_not_its_name() -> None:
    renamed = replace(MODEL, name="mine")
    assert shape_sha256(renamed) == shape_sha256(MODEL)
    check_shape(MEASURED, renamed, "q.json")
    other = load_model("opt-1.3b")
    with pytest.raises(InputError) as error:
        check_shape(MEASURED, other, "q.json")
    assert str(error.value) == (
        f"q.json: was measured with opt-125m (shapes {shape_sha256(MODEL)[:12]}), expected "
        f"opt-1.3b (shapes {shape_sha256(other)[:12]}); measure this model with llmpq quality"
    )


def test_an_indicator_has_neither_reference_nor_additivity() -> None:
    content = quality_to_dict(as_indicator(MEASURED, "hessian"))
    assert (content["reference"], content["additivity"]) == (None, None)
    assert content["measure"] == "Hessian indicator"
    assert quality_to_dict(MEASURED)["reference"]["perplexity"] == math.exp(3.0)

"""Files of measured quality losses."""

import math
from pathlib import Path
from typing import Any

import llmpq_sim
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, check_header
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.records import from_dict, keys, to_dict
from llmpq_sim.io.files import read_json, sha256_of, write_json
from llmpq_sim.io.model_records import model_to_dict
from llmpq_sim.quality.measured import (
    MEASURES,
    Additivity,
    ExpertUse,
    MeasuredLoss,
    MeasuredQuality,
    TextFacts,
)

SCHEMA = "llmpq/quality"
VERSION = 1

COLUMNS = (*keys(MeasuredLoss), "diverged")


def shape_sha256(spec: ModelSpec) -> str:
    """Return the hash of a model's shapes, whatever it is called."""
    content = model_to_dict(spec)
    del content["name"]
    return sha256_of(content)


def write_quality(path: Path, measured: MeasuredQuality) -> None:
    """Write measured losses; the same ones give the same bytes.

    Raises:
        InputError: the file cannot be written.
    """
    write_json(path, quality_to_dict(measured))


def load_quality(path: Path) -> MeasuredQuality:
    """Return the measured losses of a file.

    Raises:
        InputError: it cannot be read, or a value is missing, unknown or cannot be.
    """
    return quality_from_dict(Fields(read_json(path), path.name))


def check_shape(measured: MeasuredQuality, model: ModelSpec, where: str) -> None:
    """Check that losses were measured with a model of these shapes.

    Raises:
        InputError: they were measured with another.
    """
    expected = shape_sha256(model)
    if measured.shape_sha256 != expected:
        raise InputError(
            f"{where}: was measured with {measured.model_name} (shapes "
            f"{measured.shape_sha256[:12]}), expected {model.name} (shapes {expected[:12]}); "
            f"measure this model with llmpq quality"
        )


def quality_to_dict(measured: MeasuredQuality) -> dict[str, Any]:
    """Return measured losses as plain data."""
    nats = measured.reference_nats
    content = {
        "schema": SCHEMA,
        "version": VERSION,
        "llmpq_version": llmpq_sim.__version__,
        "method": measured.method,
        "measure": measured.measure,
        "seed": measured.seed,
        "model": {
            "name": measured.model_name,
            "shape_sha256": measured.shape_sha256,
            "weights_sha256": measured.weights_sha256,
        },
        "text": to_dict(measured.text),
        "quantizers": dict(measured.quantizers),
        "reference": None
        if nats is None
        else {"cross_entropy_nats": nats, "perplexity": math.exp(nats)},
        "additivity": measured.additivity and to_dict(measured.additivity),
        "columns": list(COLUMNS),
        "rows": [[*to_dict(row).values(), row.diverged] for row in measured.rows],
    }
    if measured.expert_use:
        content["expert_use"] = [to_dict(each) for each in measured.expert_use]
    return content


def quality_from_dict(fields: Fields) -> MeasuredQuality:
    """Return the losses that ``quality_to_dict`` made plain data of.

    Raises:
        InputError: a value is missing, unknown or cannot be.
    """
    with fields:
        check_header(fields, SCHEMA, VERSION)
        fields.text("llmpq_version")
        method = fields.choice("method", tuple(MEASURES))
        with fields.fields("model") as model:
            name = model.text("name")
            shape, weights = model.text("shape_sha256"), model.text("weights_sha256")
        quantizers = _quantizers(fields.fields("quantizers"))
        return MeasuredQuality(
            method=method,
            measure=fields.choice("measure", (MEASURES[method],)),
            seed=fields.integer("seed", least=0),
            model_name=name,
            shape_sha256=shape,
            weights_sha256=weights,
            text=from_dict(TextFacts, fields.fields("text")),
            quantizers=quantizers,
            reference_nats=_reference_nats(fields),
            additivity=from_dict(Additivity, fields.fields("additivity"))
            if fields.has("additivity")
            else None,
            rows=_rows(fields, quantizers),
            expert_use=_expert_use(fields),
        )


def _expert_use(fields: Fields) -> tuple[ExpertUse, ...]:
    """Return the choices of experts, if the file has any."""
    if not fields.has("expert_use"):
        return ()
    where = f"{fields.where}.expert_use"
    return tuple(
        from_dict(ExpertUse, Fields(item, f"{where}[{number}]"))
        for number, item in enumerate(fields.items("expert_use"))
    )


def _quantizers(fields: Fields) -> dict[str, str]:
    with fields:
        named = {name: fields.text(name) for name in fields.names()}
    quantized = [name for name, each in FORMATS.items() if each.is_quantized]
    for name in named:
        if name not in quantized:
            raise InputError(
                f"{fields.where}: expected quantized formats ({', '.join(quantized)}), got {name!r}"
            )
    return named


def _reference_nats(fields: Fields) -> float | None:
    if not fields.has("reference"):
        return None
    with fields.fields("reference") as part:
        nats = part.number("cross_entropy_nats")
        perplexity = part.number("perplexity")
    if not math.isclose(math.log(perplexity), nats, rel_tol=1e-6, abs_tol=1e-6):
        raise InputError(
            f"{part.where}.perplexity: expected the exponential of {nats} nats, got {perplexity}"
        )
    return nats


def _rows(fields: Fields, quantizers: dict[str, str]) -> tuple[MeasuredLoss, ...]:
    """Return the rows of the table, its columns by name in whatever order."""
    columns, rows = fields.texts("columns"), []
    known: set[tuple[int, str]] = set()
    for number, cells in enumerate(fields.items("rows")):
        where = f"{fields.where}.rows[{number}]"
        if not isinstance(cells, list) or len(cells) != len(columns):
            raise InputError(f"{where}: expected a list of {len(columns)} values, one per column")
        row = _row(Fields(dict(zip(columns, cells, strict=True)), where), tuple(quantizers))
        if (row.layer, row.format) in known:
            raise InputError(f"{where}: layer {row.layer} in {row.format} has a row already")
        known.add((row.layer, row.format))
        rows.append(row)
    return tuple(rows)


def _row(fields: Fields, formats: tuple[str, ...]) -> MeasuredLoss:
    diverged, has_loss = fields.flag("diverged"), fields.has("loss")
    if diverged == has_loss:
        expected = "no loss, for it diverged" if diverged else "a loss, for it did not diverge"
        raise InputError(f"{fields.where}.loss: expected {expected}")
    fields.choice("format", formats)
    return from_dict(MeasuredLoss, fields)

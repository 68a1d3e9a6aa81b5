"""Certificates as plain data."""

from typing import Any

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.search.bound.bound import BoundEntry, CellProof, Certificate
from llmpq_sim.search.bound.certificate import CellMultipliers, Multipliers, Split, WaveMultipliers
from llmpq_sim.search.bound.refinement import DEEPEST


def certificate_to_content(certificate: Certificate) -> list[dict[str, Any]]:
    """Return a certificate as plain data, an entry per micro-batching."""
    return [
        {
            "prefill_micro_batch": cuts.prefill,
            "decode_micro_batch": cuts.decode,
            "groups_in_flight": cuts.groups_in_flight,
            "bound_s": entry.bound_s,
            "waves": [
                {
                    "prefill": list(wave.prefill),
                    "decode": list(wave.decode),
                    "path": wave.path,
                }
                for wave in entry.multipliers.waves
            ],
            "loss_price_s": entry.multipliers.loss_price_s,
            "byte_price_s": list(entry.multipliers.byte_price_s),
            **_cells_content(entry.cells),
        }
        for cuts, entry in certificate.entries.items()
    ]


def certificate_from_fields(entries: list[Fields]) -> Certificate:
    """Return the certificate that `certificate_to_content` wrote.

    Raises:
        InputError: a value is missing, unknown or cannot be, or an entry occurs twice.
    """
    found: dict[MicroBatching, BoundEntry] = {}
    for fields in entries:
        with fields:
            cuts = MicroBatching(
                fields.integer("prefill_micro_batch"),
                fields.integer("decode_micro_batch"),
                fields.integer("groups_in_flight"),
            )
            if cuts in found:
                raise InputError(f"{fields.where}: the micro-batching has an entry already")
            multipliers = Multipliers(
                tuple(_wave(each) for each in fields.each("waves")),
                fields.signed("loss_price_s"),
                fields.numbers("byte_price_s"),
            )
            cells = _cells(fields.fields("cells")) if fields.has("cells") else None
            found[cuts] = BoundEntry(fields.signed("bound_s"), multipliers, cells)
    return Certificate(found)


def _wave(fields: Fields) -> WaveMultipliers:
    with fields:
        return WaveMultipliers(
            fields.numbers("prefill"), fields.numbers("decode"), fields.signed("path")
        )


def _cells_content(cells: CellProof | None) -> dict[str, Any]:
    if cells is None:
        return {}
    return {"cells": {"target_s": cells.target_s, "proof": _tree_content(cells.tree)}}


def _tree_content(tree: Split | CellMultipliers) -> dict[str, Any]:
    if isinstance(tree, Split):
        return {
            "term": tree.term,
            "at_s": tree.at_s,
            "below": _tree_content(tree.below),
            "above": _tree_content(tree.above),
        }
    return {
        "prefill": list(tree.prefill),
        "decode": list(tree.decode),
        "path": tree.path,
        "loss_price_s": tree.loss_price_s,
        "values_s": list(tree.values_s),
    }


def _cells(fields: Fields) -> CellProof:
    with fields:
        return CellProof(fields.number("target_s"), _tree(fields.fields("proof"), 0))


def _tree(fields: Fields, depth: int) -> Split | CellMultipliers:
    if depth > DEEPEST:
        raise InputError(f"{fields.where}: expected at most {DEEPEST} cuts, one in another")
    with fields:
        if fields.has("term"):
            return Split(
                fields.choice("term", ("prefill", "decode")),
                fields.number("at_s", positive=False),
                _tree(fields.fields("below"), depth + 1),
                _tree(fields.fields("above"), depth + 1),
            )
        values = fields.numbers("values_s")
        if len(values) != 3:
            raise InputError(f"{fields.where}.values_s: expected 3 numbers, got {len(values)}")
        return CellMultipliers(
            fields.numbers("prefill"),
            fields.numbers("decode"),
            fields.signed("path"),
            fields.signed("loss_price_s"),
            (values[0], values[1], values[2]),
        )

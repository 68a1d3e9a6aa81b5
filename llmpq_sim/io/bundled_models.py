"""Bundled models: one file of compact records, by name or by the ids of the Hugging Face hub."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from types import MappingProxyType
from typing import Any

from llmpq_sim.core.fields import Fields, check_header
from llmpq_sim.io.files import read_json
from llmpq_sim.io.resources import bundled_dir, in_counting_order

SCHEMA = "llmpq/models"
VERSION = 1
FILE = "models.json"


@dataclass(frozen=True)
class BundledModel:
    """A bundled model.

    Attributes:
        hub: its ids on the Hugging Face hub, the plain one first.
        config: the keys of its config.json that shape it.
        published_as: the format that it is published in alone, empty for 16 bits.
        published_linears: the products that have it; empty for all.
    """

    name: str
    hub: tuple[str, ...]
    config: Mapping[str, Any]
    published_as: str
    published_linears: tuple[str, ...]


@cache
def _records() -> Mapping[str, BundledModel]:
    path = bundled_dir("cluster_profiles") / "models" / FILE
    with Fields(read_json(path), path.name) as fields:
        check_header(fields, SCHEMA, VERSION)
        listed = fields.each("models")
    records = {}
    for each in listed:
        with each:
            published = each.fields("published") if each.has("published") else Fields({}, "")
            record = BundledModel(
                name=each.text("name"),
                hub=each.texts("hub", []),
                config=MappingProxyType(each.fields("config").content()),
                published_as=published.text("format") if published.has("format") else "",
                published_linears=published.texts("linears", []),
            )
        records[record.name] = record
    return MappingProxyType({name: records[name] for name in in_counting_order(records)})


def bundled_models() -> tuple[str, ...]:
    """Return the names of the bundled models."""
    return tuple(_records())


def bundled_record(name: str) -> BundledModel:
    """Return a bundled model by its exact name."""
    return _records()[name]


def record_named(name: str) -> str | None:
    """Return the bundled name that a name in any case or an id of the hub means, None for none."""
    return _by_name().get(name.strip("/").lower())


@cache
def _by_name() -> Mapping[str, str]:
    """Return bundled names by what else means them: ids, and ids without their owner."""
    names: dict[str, str] = {}
    for record in _records().values():
        for hub in record.hub:
            names.setdefault(hub.lower(), record.name)
            names.setdefault(hub.rsplit("/", 1)[-1].lower(), record.name)
    for name in _records():
        names[name.lower()] = name
    return names

import json

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.clusters import bundled_clusters
from llmpq_sim.report.search import show_listing
from llmpq_sim.report.tables import bundled_listing
from tests.reports import paper, written

KINDS = ("models", "devices", "clusters", "formats")


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_ships_is_listed_once_in_both_forms(kind: str) -> None:
    listing = bundled_listing(kind)
    names = [row[0] for row in listing.rows]
    assert len(names) == len(set(names)) > 0
    assert [entry["name"] for entry in listing.entries] == names
    assert all(len(row) == len(listing.columns) for row in listing.rows)


@pytest.mark.parametrize("kind", KINDS)
def test_a_listing_is_json_and_fits_a_screen(kind: str) -> None:
    listing, console = bundled_listing(kind), paper()
    assert list(json.loads(json.dumps(listing.content(), allow_nan=False))) == [
        "schema",
        "version",
        kind,
    ]
    show_listing(console, listing)
    lines = written(console).splitlines()
    assert len(lines) == len(listing.rows) + 2
    assert max(map(len, lines)) <= 88


def test_the_size_of_a_model_counts_a_tied_embedding_once() -> None:
    sizes = {entry["name"]: entry["weights_bytes"] for entry in bundled_listing("models").entries}
    published, final_norm = 125_239_296, 2 * 768
    assert sizes["opt-125m"] == 2 * (published - final_norm)


def test_clusters_are_listed_as_people_count() -> None:
    assert tuple(row[0] for row in bundled_listing("clusters").rows) == bundled_clusters()


def test_an_unknown_kind_is_named_with_the_likely_one() -> None:
    with pytest.raises(InputError) as error:
        bundled_listing("model")
    assert str(error.value) == (
        "list: expected one of models, devices, clusters, formats, links, traces, "
        "got 'model'; "
        "did you mean models?"
    )

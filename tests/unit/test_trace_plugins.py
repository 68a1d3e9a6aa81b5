"""Trace formats of installed packages: told by content after those that ship, and broken ones."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from llmpq_sim.io.traces.detection import TRACE_FORMATS
from tests.traces import columns, read, refusal

MODULE = """\
from llmpq_sim.io.traces.csv_formats import CsvColumns
from llmpq_sim.io.traces.detection import TraceFormat, csv_format
from llmpq_sim.io.traces.rows import Row, json_time, json_tokens

def rows(reading):
    for place, record in reading.records():
        time = json_time(record, ("at",), place)
        yield Row(time, json_tokens(record, ("in",), place), json_tokens(record, ("out",), place))

GATEWAY = TraceFormat("gateway", rows, frozenset({"at", "in", "out"}).issubset, "s")
TABLE = csv_format("a-table", CsvColumns("asked", "given", "at"), "ms")
GREEDY = TraceFormat("greedy", rows, lambda keys: True, "s")
"""

GATEWAY_FILE = '{"at": 0, "in": 7, "out": 2}\n{"at": 1.5, "in": 9, "out": 3}\n'
GATEWAY_COLUMNS = ([0.0, 1.5], [7, 9], [2, 3])

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Install a package that offers formats: names, and where they lie in its module."""

    def write(text: str = MODULE, **points: str) -> None:
        site = tmp_path / "site"
        facts = site / "house_traces-1.0.dist-info"
        facts.mkdir(parents=True)
        lines = [f"{name.replace('_', '-')} = {place}" for name, place in points.items()]
        (facts / "METADATA").write_text("Metadata-Version: 2.1\nName: house-traces\nVersion: 1.0\n")
        (facts / "entry_points.txt").write_text("\n".join((f"[{TRACE_FORMATS.group}]", *lines, "")))
        (site / "house_traces.py").write_text(text)
        monkeypatch.syspath_prepend(str(site))

    monkeypatch.delitem(sys.modules, "house_traces", raising=False)
    return write


def test_formats_of_packages_are_told_by_content_and_by_name(
    install: Install, tmp_path: Path
) -> None:
    install(gateway="house_traces:GATEWAY", a_table="house_traces:TABLE")
    found = read(tmp_path, "t.jsonl", GATEWAY_FILE)
    assert columns(found) == GATEWAY_COLUMNS
    assert found.notes[:2] == ("read as gateway", "times in s, as the format has them")
    assert columns(read(tmp_path, "t.jsonl", GATEWAY_FILE, trace_format="gateway")) == (
        GATEWAY_COLUMNS
    )
    table = read(tmp_path, "t.csv", "at,asked,given\n0,7,2\n1500,9,3\n")
    assert columns(table) == GATEWAY_COLUMNS
    assert table.notes[0] == "read as a-table"


def test_formats_that_ship_are_tried_first_and_keep_their_names(
    install: Install, tmp_path: Path
) -> None:
    install(greedy="house_traces:GREEDY", mooncake="house_traces:GATEWAY")
    lengths = '{"input_length": 7, "output_length": 2}\n'
    assert read(tmp_path, "t.jsonl", lengths).notes[0] == "read as lengths"
    said = refusal(tmp_path, "t.jsonl", GATEWAY_FILE, trace_format="mooncake")
    assert said.startswith("t.jsonl line 1, ")
    said = refusal(tmp_path, "t.csv", "a,b\n1,2\n")
    assert said.startswith("t.csv: no known trace format has the columns a, b; name yours as")
    assert said.endswith("servegen, greedy")


@pytest.mark.parametrize(
    ("text", "place", "why"),
    [
        (
            "import not_there",
            "house_traces:GATEWAY",
            "needs the module not_there, which is not installed",
        ),
        (
            "1 / 0",
            "house_traces:GATEWAY",
            "cannot be loaded from house_traces:GATEWAY: ZeroDivisionError: division by zero",
        ),
        (
            MODULE,
            "house_traces:Row",
            "expected a TraceFormat of this name at house_traces:Row, got "
            "<class 'llmpq_sim.io.traces.rows.Row'>",
        ),
        (
            MODULE.replace('"gateway"', '"other"'),
            "house_traces:GATEWAY",
            "expected a TraceFormat of this name at house_traces:GATEWAY, got TraceFormat(name=",
        ),
    ],
)
def test_a_broken_package_is_named_and_harms_no_format_that_ships(
    install: Install, tmp_path: Path, text: str, place: str, why: str
) -> None:
    install(text, gateway=place)
    for options in ({}, {"trace_format": "gateway"}):
        said = refusal(tmp_path, "t.jsonl", GATEWAY_FILE, **options)
        assert said.startswith("trace format 'gateway' of house-traces")
        assert why in said
    assert read(tmp_path, "l.jsonl", '{"input_length": 7, "output_length": 2}\n').requests == 1

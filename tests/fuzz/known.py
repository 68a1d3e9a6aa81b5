"""Inputs of every kind that once was a fault, made by code."""

import io
import json
import pickle
import struct
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow
import pyarrow.parquet

from tests.fuzz.runtime_inputs import SETTINGS

TEMPLATES = (
    "{{ 1 / 0 }}",
    "{{ 'a' + 1 }}",
    "{% for i in range(10**9) %}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{% import 'os' as os %}",
    "{{ strftime_now(5) }}",
    "{{ 'a' * 3000000000 }}",
    5,
    5e-324,
    [{"name": "a", "template": "x"}, {"name": "b", "template": "y"}],
)

ODD_CELLS: tuple[list[Any], ...] = (
    [["gemm"]],
    [{"a": 1}],
    [datetime(1, 1, 1, tzinfo=UTC)],
    [timedelta(days=10**6)],
    [b"\xff"],
    ["x" * 1_000_000],
    [10**30],
)


def known_inputs() -> Iterator[tuple[str, bytes]]:
    """Yield the kind of each input and what it holds."""
    for content in (
        b"\0",
        b"",
        b"U",
        b"\x80\x02\x8a\x0al\xfc.",
        b"\x80\x02]q\0.",
        b"(lp0\n0.",
        b"PK",
    ):
        yield "bin", content
    yield "bin", pickle.dumps({"a": bytearray(10)}, protocol=2).replace(b"\n", b"\xff")
    for template in TEMPLATES:
        yield "tokenizer-settings", json.dumps({**SETTINGS, "chat_template": template}).encode()
    for cells in ODD_CELLS:
        yield from (("parquet", content) for content in _odd_tables(cells))
    yield "parquet", _long_table()
    for shape in ([0, 2**64 - 1], [0, 2**63], [2**31, 2**31, 0]):
        header = {"a": {"dtype": "F32", "shape": shape, "data_offsets": [0, 0]}}
        text = json.dumps(header).encode()
        yield "safetensors", struct.pack("<Q", len(text)) + text
    for name in ("x" * 300, "x" * 70_000, "..", "\0"):
        yield "index", json.dumps({"weight_map": {"a": name}}).encode()
    yield "lengths", b"9" * 5000
    yield "lengths", b"1\n" * 5000
    yield (
        "trace-json",
        b"".join(
            b'{"timestamp": %s, "input_length": 8, "output_length": 4}\n' % time
            for time in (b"0", b"1e-300", b"2e-300")
        ),
    )
    yield "sensitivity", b"[" + b"{}," * 2_000_001 + b"{}]"
    yield "rows", b"op,latency_us\n" + b"a,1\n" * 1_100_000
    yield "cluster", b"- a\n" * 250_000
    yield "cluster", b"[" * 500_000


def _odd_tables(cells: list[Any]) -> Iterator[bytes]:
    for columns in ({"op": cells, "latency_us": [1.0]}, {"op": ["gemm"], "latency_us": cells}):
        stream = io.BytesIO()
        try:
            table = pyarrow.table(columns)
        except (pyarrow.ArrowException, OverflowError):  # no cell of a table can be this
            continue
        pyarrow.parquet.write_table(table, stream)
        yield stream.getvalue()


def _long_table() -> bytes:
    """Return a small file of many rows."""
    stream = io.BytesIO()
    schema = pyarrow.schema([("op", pyarrow.string()), ("latency_us", pyarrow.float32())])
    with pyarrow.parquet.ParquetWriter(stream, schema) as writer:
        piece = pyarrow.table({"op": ["gemm"] * 500_000, "latency_us": [1.0] * 500_000}, schema)
        for _ in range(3):
            writer.write_table(piece)
    return stream.getvalue()

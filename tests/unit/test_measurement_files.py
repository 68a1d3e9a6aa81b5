import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.measurements import read_measurements

HEADER = "op,quant,m,n,k,latency_us,remark\n"
ROWS = HEADER + "gemm,fp16,1,4096,4096,30.5,first\ngemm,int4,,4096,4096,20,\n"


def written(folder: Path, text: str, name: str = "rows.csv") -> Path:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return path


def test_rows_become_columns(tmp_path: Path) -> None:
    rows = read_measurements(written(tmp_path, ROWS))
    assert rows.quant.tolist() == ["fp16", "int4"]
    assert rows.latency_us.tolist() == [30.5, 20]
    assert rows.backend.tolist() == ["", ""]
    assert np.isnan([rows.m[1], rows.heads[0]]).all()


def test_a_packed_file_reads_the_same(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(ROWS.encode()))
    plain = read_measurements(written(tmp_path, ROWS))
    assert read_measurements(path).latency_us.tolist() == plain.latency_us.tolist()


def test_parquet_reads_the_same(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    columns = {"op": ["gemm"], "quant": ["fp16"], "m": [1], "n": [512], "k": [None]}
    table = pyarrow.table(columns | {"latency_us": [3.5], "kernel": ["x"]})
    pyarrow.parquet.write_table(table, tmp_path / "rows.parquet")
    rows = read_measurements(tmp_path / "rows.parquet")
    assert (rows.op.tolist(), rows.m.tolist(), rows.latency_us.tolist()) == (["gemm"], [1], [3.5])
    assert np.isnan(rows.k).all()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("op,m\ngemm,1\n", "rows.csv: expected a column latency_us, got op, m"),
        ("op,m,n,latency_us\ngemm,1,1,1\n", "rows.csv: rows with op=gemm need the columns quant, "
         "m, n, k; missing are quant, k"),
        ("op,phase,latency_us\nattention,decode,1\n", "rows.csv: rows with op=attention need the "
         "columns phase, batch, seq, heads, kv_heads, head_dim; missing are batch, seq, heads, "
         "kv_heads, head_dim"),
        (HEADER + "gemm,fp16,1,1,1,5,\ngemm,fp16,1,many,1,5,\n",
         "rows.csv line 3, column n: expected a number, got 'many'"),
        (HEADER + "gemm,fp16,1\n", "rows.csv line 2: expected 7 cells as in the header, got 3"),
        (HEADER + 'gemm,"fp16,1\n', "rows.csv line 2: not CSV: unexpected end of data"),
        ("op,op,latency_us\n", "rows.csv: expected distinct columns, got op, op, latency_us"),
        ("\n", "rows.csv: expected content, but the file is empty"),
    ],
)  # fmt: skip
def test_a_bad_table_says_what_and_where(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(InputError) as caught:
        read_measurements(written(tmp_path, text))
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv.gz", b"no gzip", "Not a gzipped file (b'no')"),
        ("rows.csv.gz", gzip.compress(b"op", mtime=0)[:-5], "Compressed file ended before"),
        ("rows.parquet", b"no parquet", "Parquet"),
    ],
)
def test_a_damaged_file_is_one_error(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        read_measurements(path)
    assert str(caught.value).startswith(f"cannot read {path}: ")


def test_what_unpacks_to_nonsense_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(b"\xff\xfe\x00"))
    with pytest.raises(InputError, match=r"^rows.csv.gz: expected UTF-8 text once unpacked$"):
        read_measurements(path)


def test_a_file_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(b" " * (64 * 2**20 + 1), compresslevel=1))
    with pytest.raises(InputError) as caught:
        read_measurements(path)
    assert str(caught.value) == f"{path}: expected at most 64 MiB once unpacked, got more"


@pytest.mark.parametrize("name", ["none.csv", "none.csv.gz", "none.parquet"])
def test_a_missing_file_is_an_input_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=f"^cannot read .*{name}"):
        read_measurements(tmp_path / name)


def test_what_surrounds_layers_needs_its_sizes(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("op,m,n,latency_us,spread,repeats\nhead,1,5,2.5,0.01,9\n", encoding="utf-8")
    with pytest.raises(InputError) as caught:
        read_measurements(path)
    assert str(caught.value) == (
        "rows.csv: rows with op=head need the columns m, n, k; missing are k"
    )


def test_own_rows_have_a_kernel_a_spread_and_repeats(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    text = "op,quant,kernel,m,n,k,latency_us,spread,repeats\ngemm,int4,fused,1,5,6,2.5,0.01,9\n"
    path.write_text(text, encoding="utf-8")
    rows = read_measurements(path)
    assert (rows.kernel[0], rows.spread[0], rows.repeats[0]) == ("fused", 0.01, 9.0)

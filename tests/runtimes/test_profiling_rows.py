"""Files of rows: interruptions are survived, foreign files refused."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.measurements import read_measurements
from runtimes.profiling.points import Point
from runtimes.profiling.rows_files import COLUMNS, Origin, check_rows, open_rows, row_text
from runtimes.profiling.timing import Timing

ORIGIN = Origin("2.13.0", "lab, one", ("llama-160m",))
POINTS = [
    Point("gemm", "any", "int8", "llama-160m", "fused", m=4, n=64, k=128),
    Point("attention", "decode", model="llama-160m", batch=2, seq=7, heads=4, kv_heads=2,
          head_dim=16, kv_bits=16),
    Point("layer", "prefill", "int4", "llama-160m", batch=1, seq=32, layers=2),
    Point("link", bytes=4096),
]  # fmt: skip
TIMING = Timing(123.4e-6, 0.0217, 9)


def written(path: Path, points: list[Point], *, resume: bool = False) -> None:
    with open_rows(path, ORIGIN, resume=resume) as rows:
        for point in points:
            rows.append(point, TIMING)


def test_rows_are_read_back_under_their_keys(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    written(path, POINTS)
    found = check_rows(path, ORIGIN, resume=True)
    assert list(found) == POINTS
    assert found[POINTS[0]].median_s == pytest.approx(TIMING.median_s)
    assert found[POINTS[0]].spread == pytest.approx(TIMING.spread)
    assert found[POINTS[0]].repeats == TIMING.repeats


def test_rows_are_read_as_measurements(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    written(path, POINTS)
    read = read_measurements(path)
    assert read.op.tolist() == [point.op for point in POINTS]
    assert read.latency_us == pytest.approx([123.4] * len(POINTS))
    assert (read.m[0], read.n[0], read.k[0]) == (4, 64, 128)
    assert set(read.gpu.tolist()) == {"lab, one"}
    assert set(read.backend.tolist()) == {"torch"}


@given(st.integers(0, 400))
def test_a_file_that_was_cut_anywhere_keeps_its_whole_rows(
    tmp_path_factory: pytest.TempPathFactory, shard: int
) -> None:
    path = tmp_path_factory.mktemp("cut") / "rows.csv"
    written(path, POINTS)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) - shard])
    kept = list(check_rows(path, ORIGIN, resume=True))
    assert kept == POINTS[: len(kept)]
    written(path, POINTS[len(kept) :], resume=True)
    assert path.read_bytes() == content


def test_each_row_is_in_the_file_before_the_next_is_measured(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    with open_rows(path, ORIGIN, resume=False) as rows:
        for number, point in enumerate(POINTS, start=1):
            rows.append(point, TIMING)
            assert path.read_text(encoding="utf-8").count("\n") == number + 1


def test_a_file_that_is_there_is_refused_without_resume(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    written(path, POINTS)
    with pytest.raises(InputError, match=r"is there already; give --resume"):
        written(path, [])


@pytest.mark.parametrize(
    ("origin", "message"),
    [
        (Origin("2.13.0", "other", ORIGIN.models), "column gpu: expected other, got 'lab, one'"),
        (Origin("2.14.0", ORIGIN.device, ORIGIN.models), "column version: expected 2.14.0, got"),
        (Origin("2.13.0", ORIGIN.device, ("opt-125m",)), "column model: expected opt-125m, got"),
    ],
    ids=("device", "version", "model"),
)
def test_rows_of_another_origin_are_refused(tmp_path: Path, origin: Origin, message: str) -> None:
    path = tmp_path / "rows.csv"
    written(path, POINTS)
    with pytest.raises(InputError, match=message):
        check_rows(path, origin, resume=True)


def test_a_foreign_file_is_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(InputError, match="has other columns than llmpq profile writes"):
        check_rows(path, ORIGIN, resume=True)
    assert path.read_text(encoding="utf-8") == "a,b\n1,2\n"


def test_a_row_that_is_damaged_is_named(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    written(path, POINTS[:1])
    path.write_text(path.read_text(encoding="utf-8").replace(",64,", ",many,"), encoding="utf-8")
    with pytest.raises(InputError, match=r"rows.csv line 2: expected a row of llmpq profile"):
        check_rows(path, ORIGIN, resume=True)


@pytest.mark.parametrize("name", ["rows.parquet", "rows"])
def test_other_kinds_of_file_are_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(InputError, match=r"--out: expected a file that ends in .csv"):
        check_rows(tmp_path / name, ORIGIN, resume=False)


def test_a_folder_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no folder"):
        check_rows(tmp_path / "absent" / "rows.csv", ORIGIN, resume=False)


def test_a_row_has_a_cell_for_each_column() -> None:
    text = row_text(POINTS[2], TIMING, Origin("2.13.0", "lab", ()))
    cells = dict(zip(COLUMNS, text.rstrip("\n").split(","), strict=True))
    assert cells["layers"] == "2"
    assert cells["m"] == ""
    assert cells["latency_us"] == "123.4000"

"""Resume of a measurement: what it would have given without the interruption."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmpq_sim.core.errors import InfeasibleError, InputError
from llmpq_sim.io.files import json_text
from llmpq_sim.io.quality import quality_to_dict
from runtimes.quality import measured_model, resource_checks
from runtimes.quality.measured_model import open_measured_model
from runtimes.quality.measuring import measure_kl
from runtimes.quality.progress import StreamProgress
from runtimes.quality.settings import QualitySettings
from runtimes.quality.streams import PROGRESS, remove_streams
from tests.runtimes.quality_subjects import quality_settings, save_subject

LAYERS = 3
PASSES = 3 + 2 * (3 + 2 + 1) + 2 * 3  # of layers at most, two mixed assignments included


class Killed(BaseException):
    """As an interrupt: nothing catches it on the way."""


def killed_after(passes: int) -> Any:
    """Return a callback that ends a measurement after so many passes."""
    told: list[StreamProgress] = []

    def tell(progress: StreamProgress) -> None:
        told.append(progress)
        if len(told) > passes:
            raise Killed

    return tell


def content(chosen: QualitySettings) -> str:
    """Return the bytes of the file that a measurement gives."""
    return json_text(quality_to_dict(measure_kl(open_measured_model(chosen), chosen)))


@pytest.fixture(scope="module")
def model_and_text(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return save_subject(tmp_path_factory.mktemp("resumed"), layers=LAYERS)


@pytest.fixture(scope="module")
def uninterrupted(
    model_and_text: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> str:
    work_dir = tmp_path_factory.mktemp("whole") / "work"
    return content(chosen_settings(model_and_text, work_dir))


def chosen_settings(
    model_and_text: tuple[Path, Path], work_dir: Path, **changes: Any
) -> QualitySettings:
    model, text = model_and_text
    chosen: dict[str, Any] = {"formats": ("int3", "int8"), "check": 2, "dtype": "bf16", **changes}
    return quality_settings(model, text, work_dir=work_dir, **chosen)


@settings(
    deadline=None, max_examples=5, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(kills=st.lists(st.integers(0, PASSES), min_size=1, max_size=3))
def test_a_resumed_measurement_equals_an_uninterrupted_one(
    model_and_text: tuple[Path, Path], uninterrupted: str, tmp_path: Path, kills: list[int]
) -> None:
    work_dir = tmp_path / "work"
    remove_streams(work_dir)
    chosen = chosen_settings(model_and_text, work_dir, resume=True)
    for passes in kills:
        try:
            measure_kl(open_measured_model(chosen), chosen, on_progress=killed_after(passes))
        except Killed:
            assert (work_dir / PROGRESS).exists()
    assert content(chosen) == uninterrupted


def test_whole_layers_are_not_computed_again(
    model_and_text: tuple[Path, Path], tmp_path: Path
) -> None:
    chosen = chosen_settings(model_and_text, tmp_path / "work", check=0, resume=True)
    with pytest.raises(Killed):  # after the 3 passes of the first layer and 1 of the second
        measure_kl(open_measured_model(chosen), chosen, on_progress=killed_after(4))
    assert json.loads((tmp_path / "work" / PROGRESS).read_text(encoding="utf-8"))["layers"] == 1
    told: list[StreamProgress] = []
    measure_kl(open_measured_model(chosen), chosen, on_progress=told.append)
    assert [progress.layer for progress in told] == [1] * 5 + [2] * 7 + [3] * 3  # three windows
    assert told[-1].fraction == pytest.approx(1.0)
    assert told[-1].left_s == 0.0


def test_an_interrupted_run_is_not_lost_unasked(
    model_and_text: tuple[Path, Path], tmp_path: Path
) -> None:
    work_dir = tmp_path / "q.json.work"
    chosen = chosen_settings(model_and_text, work_dir)
    with pytest.raises(Killed):
        measure_kl(open_measured_model(chosen), chosen, on_progress=killed_after(4))
    with pytest.raises(InputError) as error:
        measure_kl(open_measured_model(chosen), chosen)
    assert str(error.value) == (
        f"{work_dir}: holds an interrupted run; go on with --resume, or remove the folder"
    )


@pytest.mark.parametrize(
    "change",
    [
        {"formats": ("int3",)},
        {"seed": 1},
        {"check": 1},
        {"windows": 2},
        {"dtype": "fp32"},
        {"quantizers": {"int3": "hqq"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_run_with_other_settings_is_not_taken_up(
    model_and_text: tuple[Path, Path], tmp_path: Path, change: dict[str, Any]
) -> None:
    chosen = chosen_settings(model_and_text, tmp_path / "work")
    with pytest.raises(Killed):
        measure_kl(open_measured_model(chosen), chosen, on_progress=killed_after(4))
    other = chosen_settings(model_and_text, tmp_path / "work", resume=True, **change)
    with pytest.raises(InputError, match="is of a run with another model, text or settings"):
        measure_kl(open_measured_model(other), other)


def test_streams_that_are_gone_or_damaged_are_named(
    model_and_text: tuple[Path, Path], tmp_path: Path
) -> None:
    work_dir = tmp_path / "work"
    chosen = chosen_settings(model_and_text, work_dir, resume=True)
    with pytest.raises(Killed):
        measure_kl(open_measured_model(chosen), chosen, on_progress=killed_after(4))
    shutil.copy(work_dir / "odd.npy", tmp_path / "kept.npy")
    (work_dir / "odd.npy").write_bytes(b"\x93NUMPY")
    with pytest.raises(InputError, match="cannot use its streams"):
        measure_kl(open_measured_model(chosen), chosen)
    (work_dir / "odd.npy").unlink()
    with pytest.raises(InputError, match="cannot use its streams"):
        measure_kl(open_measured_model(chosen), chosen)


# ---- room


def test_too_little_disk_is_said_before_anything_is_written(
    model_and_text: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=1000))
    chosen = chosen_settings(model_and_text, tmp_path / "work")
    with pytest.raises(InfeasibleError, match=r"need 0\.0002 GiB of disk, 0\.0000 GiB are free"):
        measure_kl(open_measured_model(chosen), chosen)
    assert not (tmp_path / "work").exists()


def test_too_little_memory_for_a_layer_is_said(
    model_and_text: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measured_model, "free_memory_bytes", lambda _: 1000)
    with pytest.raises(InfeasibleError, match="even layer by layer, needs"):
        open_measured_model(chosen_settings(model_and_text, tmp_path / "work"))


def test_needed_memory_grows_with_windows_and_not_with_layers(tmp_path: Path) -> None:
    shallow, text = save_subject(tmp_path / "shallow", layers=1)
    deep, _ = save_subject(tmp_path / "deep", layers=6)

    def needed(model: Path, **changes: Any) -> int:
        opened = open_measured_model(quality_settings(model, text, **changes))
        return resource_checks.needed_memory_bytes(opened.spec, opened.source)

    assert needed(deep) == needed(shallow)
    assert needed(shallow, dtype="bf16") < needed(shallow)

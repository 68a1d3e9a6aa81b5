"""Profiles: come out whole, resume what is missing, refuse what cannot be."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.machine import machine_path
from llmpq_sim.io.measurements import read_measurements
from llmpq_sim.io.profiles import machine_beside
from runtimes.profiling.conditions import Conditions
from runtimes.profiling.grid import Grid
from runtimes.profiling.machine_facts import torch_version
from runtimes.profiling.points import Point
from runtimes.profiling.processor import find_target, pinned, stage_cores, usable_cores
from runtimes.profiling.profiler import agenda_of, profile
from runtimes.profiling.rows_files import check_rows
from runtimes.profiling.served import serves_here
from runtimes.profiling.settings import ProfileProgress, ProfileSettings, ProfileSummary
from runtimes.profiling.task import checked_task
from runtimes.profiling.timing import Effort

CONFIG = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 64,
    "dtype": "bfloat16",
    "tie_word_embeddings": False,
}
GRID = Grid(
    tokens=(1, 3, 16),
    decode_batches=(1, 3),
    contexts=(5, 16),
    prompt_batches=(2,),
    prompts=(7, 16),
    layer_decodes=((1, 5), (3, 9)),
    layer_prompts=((1, 8), (2, 13)),
    rows=(1, 3),
    step_rows=(1, 4),
    message_bytes=(256, 65536),
)
SERVED = replace(GRID, served_rounds=12)
EFFORT = Effort(fewest_repeats=3, least_s=0.0, most_s=0.1, longest_call_s=60.0, attempts=1)


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG), encoding="utf-8")
    return folder


def settings_for(out: Path, model_dir: Path) -> ProfileSettings:
    return ProfileSettings(
        out, threads=1, models=(str(model_dir),), name="here", grid=GRID, effort=EFFORT
    )


@pytest.fixture(scope="module")
def finished(
    tmp_path_factory: pytest.TempPathFactory, model_dir: Path
) -> tuple[ProfileSummary, list[ProfileProgress]]:
    told: list[ProfileProgress] = []
    out = tmp_path_factory.mktemp("profile") / "rows.csv"
    return profile(replace(settings_for(out, model_dir), grid=SERVED), told.append), told


def keys_of(path: Path, model_dir: Path) -> list[Point]:
    task = checked_task(replace(settings_for(path, model_dir), resume=True))
    return list(check_rows(path, task.origin, resume=True))


def part_of(finished: ProfileSummary, folder: Path, lines: int) -> Path:
    """Return a copy of a finished profile that was interrupted while it wrote a row."""
    path = folder / "rows.csv"
    whole = finished.rows_path.read_text(encoding="utf-8").splitlines(keepends=True)
    path.write_text("".join(whole[:lines]) + whole[lines][:9], encoding="utf-8")
    shutil.copy(finished.machine_path, machine_path(path))
    return path


Finished = tuple[ProfileSummary, list[ProfileProgress]]


def test_every_point_of_the_grid_is_measured_once(finished: Finished, model_dir: Path) -> None:
    summary, _ = finished
    settings = replace(settings_for(summary.rows_path, model_dir), resume=True, grid=SERVED)
    task = checked_task(settings)
    agenda = agenda_of(task, Conditions(task.target, task.dtype, task.models, {}))
    keys = keys_of(summary.rows_path, model_dir)
    assert sorted(keys, key=repr) == sorted(agenda.points, key=repr)
    assert len(set(keys)) == len(keys) == summary.rows == summary.measured
    assert (summary.too_long, summary.too_large) == (0, 0)


def test_all_operators_formats_and_phases_are_there(finished: Finished) -> None:
    rows = read_measurements(finished[0].rows_path)
    operators = {"gemm", "attention", "layer", "embedding", "head", "visit", "link"}
    served = {"served"} if serves_here(find_target("cpu", 1)) else set()
    assert set(rows.op.tolist()) == operators | served
    layers = rows.where(rows.op == "layer")
    assert {*zip(layers.phase.tolist(), layers.quant.tolist(), strict=True)} == {
        (phase, quant)
        for phase in ("prefill", "decode")
        for quant in ("bf16", "int8", "int4", "int3")
    }
    assert set(rows.version.tolist()) == {torch_version()}
    assert (rows.latency_us > 0).all()


def test_the_machines_facts_are_kept_beside_the_rows(finished: Finished) -> None:
    machine = machine_beside(finished[0].rows_path)
    assert machine == finished[0].machine
    assert machine is not None
    assert (machine.device, machine.torch_device, machine.threads) == ("here", "cpu", 1)
    assert machine.formats == ("bf16", "int8", "int4", "int3")
    assert 1e8 < machine.memory_bytes_per_s < 1e13
    assert 1e8 < machine.flops_per_s < 1e15
    assert 50e6 < machine.runtime_bytes < 5e9


def test_progress_grows_to_the_end_and_says_what_is_timed(finished: Finished) -> None:
    summary, told = finished
    assert told[0].left_s is None
    assert all(0 <= progress.fraction <= 1 for progress in told)
    assert all(progress.left_s is not None and progress.left_s >= 0 for progress in told[1:])
    messages = len(GRID.message_bytes) + 1  # timed without a pause, and so told of once
    rows = read_measurements(summary.rows_path)
    served = int((rows.op == "served").sum())  # likewise
    assert len(told) == 1 + (summary.measured - messages + 1) - max(served - 1, 0)
    assert any("int4 fused 16 x 64 x" in progress.doing for progress in told)


def test_a_resumed_profile_has_the_same_keys(
    finished: Finished, model_dir: Path, tmp_path: Path
) -> None:
    summary, _ = finished
    path = part_of(summary, tmp_path, 1 + summary.rows // 2)
    resumed = profile(replace(settings_for(path, model_dir), resume=True, grid=SERVED))
    assert set(keys_of(path, model_dir)) == set(keys_of(summary.rows_path, model_dir))
    assert resumed.rows == summary.rows
    assert resumed.measured == summary.rows - summary.rows // 2
    # What a stage takes is measured with the served steps, which were missing.
    assert replace(resumed.machine, runtime_bytes=0) == replace(summary.machine, runtime_bytes=0)


def test_an_interrupted_profile_keeps_its_rows(
    finished: Finished, model_dir: Path, tmp_path: Path
) -> None:
    path = part_of(finished[0], tmp_path, 1)
    told: list[str] = []

    def interrupt(progress: ProfileProgress) -> None:
        told.append(progress.doing.rpartition(" ")[0])
        if len(read_measurements(path)) > 0:
            raise KeyboardInterrupt

    cores, threads = usable_cores(), torch.get_num_threads()
    with pytest.raises(KeyboardInterrupt):
        profile(replace(settings_for(path, model_dir), resume=True), interrupt)
    assert len(keys_of(path, model_dir)) == len(told) - 2  # the machine before, one more after
    assert (usable_cores(), torch.get_num_threads()) == (cores, threads)


def test_a_series_ends_with_the_first_call_that_takes_too_long(
    finished: Finished, model_dir: Path, tmp_path: Path
) -> None:
    path = part_of(finished[0], tmp_path, 1)
    settings = replace(
        settings_for(path, model_dir),
        resume=True,
        effort=replace(EFFORT, longest_call_s=0.0),
        grid=replace(GRID, message_bytes=(256,)),
        formats=("bf16",),
    )
    task = checked_task(settings)
    agenda = agenda_of(task, Conditions(task.target, task.dtype, task.models, {}))
    summary = profile(settings)
    firsts = {series[0] for series in (*agenda.kernels, *agenda.layers)}
    firsts |= {*agenda.links}
    assert set(keys_of(path, model_dir)) == firsts
    assert summary.too_long == len(agenda.points) - len(firsts) > 0


def test_rows_of_another_setting_are_not_resumed(
    finished: Finished, model_dir: Path, tmp_path: Path
) -> None:
    path = part_of(finished[0], tmp_path, 3)
    facts = json.loads(machine_path(path).read_text(encoding="utf-8"))
    machine_path(path).write_text(json.dumps(facts | {"threads": 7}), encoding="utf-8")
    with pytest.raises(InputError, match="threads: expected 1, got 7; rows of one file belong to"):
        profile(replace(settings_for(path, model_dir), resume=True))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"device": "tpu"}, r"--device: expected cpu or cuda:N, got 'tpu'"),
        ({"threads": 0}, r"--threads: expected 1 to \d+, the cores of this process, got 0"),
        ({"threads": 9999}, r"--threads: expected 1 to \d+, .* got 9999"),
        ({"models": ("lama-160m",)}, r"model: expected a bundled model.*did you mean llama-160m"),
        ({"models": ()}, "--model: expected at least one model"),
        ({"formats": ("int7",)}, r"--formats: expected a weight format \(.*\), got 'int7'"),
        ({"formats": ("fp16", "bf16")}, "expected one 16-bit format, got fp16 and bf16"),
        ({"dtype": "fp8"}, "--dtype: expected fp32, fp16, bf16, got 'fp8'"),
        ({"name": "a\nb"}, "--name: expected a name of printable characters"),
        ({"out": Path("/proc/no/rows.csv")}, "cannot write /proc/no/rows.csv: there is no folder"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_cannot_be_is_refused_before_anything_is_timed(
    change: dict[str, object], message: str, model_dir: Path, tmp_path: Path
) -> None:
    told: list[ProfileProgress] = []
    settings = replace(settings_for(tmp_path / "rows.csv", model_dir), **change)  # type: ignore[arg-type]
    with pytest.raises(InputError, match=message):
        profile(settings, told.append)
    assert told == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_missing_gpu_is_explained(model_dir: Path, tmp_path: Path) -> None:
    settings = replace(settings_for(tmp_path / "rows.csv", model_dir), device="cuda:0")
    with pytest.raises(InputError, match=r"got 'cuda:0', but this PyTorch .* finds no CUDA device"):
        profile(settings)


def test_stages_have_cores_of_their_own_while_there_are_enough() -> None:
    cores = (0, 1, 4, 5)
    assert [stage_cores(cores, stage, 2) for stage in (0, 1, 2)] == [(0, 1), (4, 5), (0, 1)]
    assert stage_cores(cores, 1, 3) == (0, 1, 5)
    assert stage_cores((), 0, 2) == ()


def test_a_target_is_pinned_only_while_it_is_profiled() -> None:
    target = find_target("cpu", 1)
    before = usable_cores(), torch.get_num_threads()
    with pinned(target):
        assert usable_cores() == target.cores
        assert torch.get_num_threads() == 1
    assert (usable_cores(), torch.get_num_threads()) == before

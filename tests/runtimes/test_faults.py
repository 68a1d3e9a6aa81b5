"""Faults of stages: the stage is named, all else stops, and what was finished is kept."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from time import monotonic, sleep

import psutil
import pytest
from safetensors.torch import load_file, save_file

from llmpq_sim.core.errors import ExecutionError, InputError, LlmpqError
from llmpq_sim.core.plan import MicroBatching
from runtimes.base import Completion, Job, Progress, RuntimeOptions, TokenRequest
from runtimes.testing import descendants, saved_plan
from runtimes.torch_pipeline.processes import launching
from runtimes.torch_pipeline.processes.launching import WORKER
from runtimes.torch_pipeline.runtime import TorchRuntime
from tests.runtimes.models import save_model
from tests.runtimes.sockets_of_tests import LOOPBACK, free_port, listening

ROOT = Path(__file__).resolve().parents[2]
MANY = tuple(TokenRequest(f"request-{i}", (3, 4, 5 + i % 90), 100) for i in range(160))
"""Far more than any test waits for."""

PATIENCE_S = 60.0
"""For what takes a second on an idle machine."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_model("llama", tmp_path_factory.mktemp("model"))


def long_job(folder: Path, **options: object) -> Job:
    """Return a job of one request at a time, so that some are finished early and most late."""
    saved = saved_plan(
        folder,
        [("bf16",) * 2, ("int8",) * 2],
        micro_batching=MicroBatching(1, 1, 1),
        prompt_tokens=4,
        output_tokens=(100, 100),
    )
    return Job(saved, MANY, folder, options=RuntimeOptions(**options))  # type: ignore[arg-type]


def stages_started() -> dict[int, psutil.Process]:
    """Return the processes of stages that descend from this one, by the number of the stage."""
    found = {}
    for process in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            if WORKER in process.cmdline():
                found[int(process.environ()["RANK"])] = process
    return found


def stage_process(stage: int) -> int:
    """Return the process of a stage, once it is there."""
    while stage not in (started := stages_started()):
        sleep(0.01)
    return started[stage].pid


def run_with(job: Job, harm: Callable[[], None]) -> tuple[LlmpqError, list[Completion], float]:
    """Run a job, do harm after two requests; return the error, what was kept, and how long after.

    Harm is done in another thread, as it comes from outside.
    """
    served: list[Completion] = []
    harmed_s: list[float] = []

    def do_harm() -> None:
        harm()
        harmed_s.append(monotonic())

    def on_completion(one: Completion) -> None:
        served.append(one)
        if len(served) == 2:
            threading.Thread(target=do_harm).start()

    with pytest.raises(LlmpqError) as failed:
        TorchRuntime().run(job, on_completion)
    return failed.value, served, monotonic() - harmed_s[0]


def test_a_killed_stage_is_named_and_everything_stops(folder: Path) -> None:
    killed: list[int] = []

    def kill() -> None:
        killed.append(stage_process(1))
        os.kill(killed[0], signal.SIGKILL)

    error, served, took_s = run_with(long_job(folder), kill)
    assert isinstance(error, ExecutionError)
    assert str(error) == f"stage 1 on cpu-1: process {killed[0]} was killed"
    assert len(served) >= 2
    assert all(len(one.tokens) == 100 for one in served)
    assert took_s < PATIENCE_S
    assert descendants() == set()


def test_a_hung_stage_is_named_and_everything_stops(folder: Path) -> None:
    job = long_job(folder, hang_timeout_s=3.0)
    error, served, took_s = run_with(job, lambda: os.kill(stage_process(0), signal.SIGSTOP))
    assert isinstance(error, ExecutionError)
    assert str(error).startswith("stage 0 on cpu-0: process ")
    assert re.search(r"has not responded for \d+ s", str(error))
    assert len(served) >= 2
    assert took_s < PATIENCE_S
    assert descendants() == set()


def test_what_a_caller_raises_stops_every_stage(folder: Path) -> None:
    def full(_: Completion) -> None:
        raise InputError("cannot write out.jsonl: No space left on device")

    with pytest.raises(InputError, match="No space left on device"):
        TorchRuntime().run(long_job(folder), full)
    assert descendants() == set()


def test_no_stage_outlives_a_launcher_that_is_killed(folder: Path, tmp_path: Path) -> None:
    script = tmp_path / "launch.py"
    script.write_text(
        "import sys\nfrom pathlib import Path\n"
        "from tests.runtimes.test_faults import long_job\n"
        "from runtimes.torch_pipeline.runtime import TorchRuntime\n"
        f"TorchRuntime().run(long_job(Path({str(folder)!r})),\n"
        "    lambda served: print(served.request, flush=True))\n",
        encoding="utf-8",
    )
    launcher = subprocess.Popen(
        [sys.executable, str(script)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert launcher.stdout is not None
    assert launcher.stdout.readline() == "0\n"
    stages = list(stages_started().values())
    assert len(stages) == 2
    stages[1].suspend()  # one that is stopped must end as well
    launcher.kill()
    launcher.wait()
    launcher.stdout.close()
    _, left = psutil.wait_procs(stages, timeout=PATIENCE_S)
    assert left == []


def test_too_little_memory_names_the_stage_the_need_and_the_claim(folder: Path) -> None:
    saved = long_job(folder).saved
    wide = replace(saved.task.costs.scenario.workload, prompt_tokens=120, output_tokens=(8,) * 4000)
    costs = type(saved.task.costs)(
        replace(saved.task.costs.scenario, workload=wide), saved.task.costs.profiles
    )
    plan = replace(saved.plan, micro_batching=MicroBatching(1, 4000, 1))
    large = replace(saved, plan=plan, task=replace(saved.task, costs=costs))
    options = RuntimeOptions(dtype="fp32", enforces_memory=True)
    job = Job(large, (TokenRequest("one", (3, 4), 2),), folder, options=options)
    limits = _with_memory(job, 400 * 2**20)
    with pytest.raises(ExecutionError) as failed:
        TorchRuntime().run(limits)
    text = str(failed.value)
    assert text.startswith("stage ")
    assert "is out of memory while loading: an allocation of" in text
    assert "the plan has it at" in text
    assert descendants() == set()


def _with_memory(job: Job, memory_bytes: int) -> Job:
    scenario = job.saved.task.costs.scenario
    members = tuple(
        replace(one, device=replace(one.device, memory_bytes=memory_bytes, runtime_bytes=2**20))
        for one in scenario.cluster.devices
    )
    smaller = replace(scenario, cluster=replace(scenario.cluster, devices=members))
    costs = type(job.saved.task.costs)(smaller, job.saved.task.costs.profiles)
    return replace(job, saved=replace(job.saved, task=replace(job.saved.task, costs=costs)))


def test_a_missing_tensor_is_named(folder: Path, tmp_path: Path) -> None:
    damaged = Path(shutil.copytree(folder, tmp_path / "damaged"))
    tensors = load_file(damaged / "model.safetensors")
    del tensors["model.layers.3.mlp.down_proj.weight"]
    save_file(tensors, damaged / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError) as failed:
        TorchRuntime().run(replace(long_job(folder), model_dir=damaged))
    expected = "the checkpoint lacks the tensor 'model.layers.3.mlp.down_proj.weight'"
    assert str(failed.value) == f"{damaged.resolve()}: {expected}"
    assert descendants() == set()


def test_a_folder_of_another_model_is_refused_before_anything_starts(
    folder: Path, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(folder, tmp_path / "other"))
    config = json.loads((other / "config.json").read_text(encoding="utf-8"))
    config["intermediate_size"] = 128
    (other / "config.json").write_text(json.dumps(config), encoding="utf-8")
    with pytest.raises(InputError, match="expected intermediate_size 96, got 128"):
        TorchRuntime().check(replace(long_job(folder), model_dir=other))


def test_a_folder_without_weights_is_refused(folder: Path, tmp_path: Path) -> None:
    shutil.copy(folder / "config.json", tmp_path)
    with pytest.raises(
        InputError, match=r"expected weights \(model\.safetensors, pytorch_model\.bin"
    ):
        TorchRuntime().check(replace(long_job(folder), model_dir=tmp_path))


@pytest.mark.parametrize("attempt", range(5))
def test_a_stage_that_is_killed_as_it_starts_is_named(folder: Path, attempt: int) -> None:
    killed = harm_at_start(attempt % 2, 0.1 * attempt, signal.SIGKILL)
    with pytest.raises(ExecutionError) as failed:
        TorchRuntime().run(long_job(folder))
    assert (
        str(failed.value)
        == f"stage {attempt % 2} on cpu-{attempt % 2}: process {killed[0]} was killed"
    )
    assert monotonic() - killed[1] < PATIENCE_S
    assert descendants() == set()


@pytest.mark.parametrize("attempt", range(5))
def test_a_stage_that_is_stopped_as_it_starts_is_named(folder: Path, attempt: int) -> None:
    stopped = harm_at_start(attempt % 2, 0.1 * attempt, signal.SIGSTOP)
    with pytest.raises(ExecutionError) as failed:
        TorchRuntime().run(long_job(folder, hang_timeout_s=2.0))
    start = f"stage {attempt % 2} on cpu-{attempt % 2}: process {stopped[0]} has not responded for "
    assert str(failed.value).startswith(start)
    assert str(failed.value).endswith(" and is stopped")
    assert monotonic() - stopped[1] < PATIENCE_S
    assert descendants() == set()


def test_a_stage_that_is_told_to_end_is_named(folder: Path) -> None:
    ended = harm_at_start(1, 0.2, signal.SIGTERM)
    with pytest.raises(ExecutionError) as failed:
        TorchRuntime().run(long_job(folder))
    assert str(failed.value) == f"stage 1 on cpu-1: process {ended[0]} was ended by SIGTERM"
    assert descendants() == set()


def harm_at_start(stage: int, wait_s: float, number: signal.Signals) -> list[float]:
    """Send a signal to a stage soon after it was started; return its process and the instant.

    The list is filled once it is sent.
    """
    sent: list[float] = []

    def harm() -> None:
        process = stage_process(stage)
        sleep(wait_s)
        os.kill(process, number)
        sent.extend((process, monotonic()))

    threading.Thread(target=harm, daemon=True).start()
    return sent


def test_a_stage_that_cannot_begin_says_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launching, "WORKER", "runtimes.torch_pipeline.processes.no_worker")
    with pytest.raises(ExecutionError) as failed:
        TorchRuntime().run(long_job(folder))
    assert str(failed.value).startswith("stage 0 on cpu-0: process ")
    assert "ended with exit code 1: " in str(failed.value)
    assert "No module named runtimes.torch_pipeline.processes.no_worker" in str(failed.value)
    assert "\n" not in str(failed.value)


@pytest.mark.parametrize("master", [None, "127.0.0.1"])
def test_the_stages_of_one_machine_listen_on_loopback_alone(
    folder: Path, master: str | None
) -> None:
    seen: set[tuple[str, int]] = set()

    def look(progress: Progress) -> None:
        if progress.phase == "serving":
            seen.update(listening(stages_started().values()))

    options = {} if master is None else {"master": f"{master}:{free_port()}"}
    TorchRuntime().run(replace(long_job(folder, **options), requests=MANY[:4]), on_progress=look)
    assert seen
    assert {address for address, _ in seen} <= LOOPBACK


def test_a_taken_port_is_refused(folder: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        job = long_job(folder, master=f"127.0.0.1:{port}")
        with pytest.raises(InputError, match=f"cannot listen on 127.0.0.1:{port}: Address already"):
            TorchRuntime().run(job)
    assert descendants() == set()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"master": "nowhere"}, "--master: expected HOST:PORT, got 'nowhere'"),
        ({"master": "h:65536"}, "--master: expected HOST:PORT, got 'h:65536'"),
        ({"master": "198.51.100.7:4000"}, "--master: cannot listen on 198.51.100.7:4000: "),
        ({"devices": ("cpu",)}, "--devices: expected 2, one a stage, got 1"),
        ({"devices": ("cpu", "abacus")}, "--devices: expected cpu or cuda:N, got 'abacus'"),
        ({"devices": ("cpu", "cuda:99")}, "stage 1 on cpu-1 needs cuda:99, this machine has"),
        ({"node_rank": 1}, "--node-rank: expected 0 on a single machine"),
        ({"nodes": 2}, "--master: several machines need HOST:PORT"),
        ({"nodes": 2, "master": "h:1"}, "--nodes: the plan's stages are on 1 nodes"),
        ({"dtype": "fp8"}, "--dtype: expected one of bf16, fp16, fp32, got fp8"),
    ],
)
def test_what_cannot_be_is_refused(folder: Path, options: dict[str, object], message: str) -> None:
    job = replace(long_job(folder, **options), requests=MANY[:1])
    with pytest.raises(LlmpqError) as refused:
        TorchRuntime().run(job)
    assert str(refused.value).startswith(message)


def test_progress_goes_from_loading_to_serving(folder: Path) -> None:
    seen: list[Progress] = []
    TorchRuntime().run(replace(long_job(folder), requests=MANY[:2]), on_progress=seen.append)
    phases = [progress.phase for progress in seen]
    assert phases == sorted(phases)
    assert seen[0].phase == "loading"
    assert seen[-1] == replace(seen[-1], phase="serving", finished=2, output_tokens=200)

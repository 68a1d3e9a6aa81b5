"""Contract of runtimes: subclass ``RuntimeContract`` and provide ``runtime`` and ``job``."""

import os
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from llmpq_sim.core.errors import LlmpqError
from llmpq_sim.core.execution import Execution
from llmpq_sim.core.result import SimulationResult
from llmpq_sim.simulator.continuous.settings import ContinuousSettings
from runtimes.base import Completion, Job, Runtime, RuntimeOptions, Sampling, TokenRequest
from tests.runtimes.models import LAYERS, VOCABULARY, save_model
from tests.runtimes.plans import saved_plan

REQUESTS = tuple(
    TokenRequest(f"request-{number}", tuple(range(3 + number, 8 + 2 * number)), tokens)
    for number, tokens in enumerate((6, 1, 4, 6, 3))
)
SAMPLED = Sampling(temperature=1.0, top_k=50, top_p=0.95, seed=7)
SETTINGS = ContinuousSettings(token_budget=16, sequence_limit=4, longest_context_tokens=64)


def children() -> set[int]:
    """Return the processes that descend from this one."""
    listed = subprocess.run(["ps", "-eo", "pid,ppid"], capture_output=True, text=True, check=True)
    parents = {
        int(pid): int(parent) for pid, parent in map(str.split, listed.stdout.splitlines()[1:])
    }
    found, frontier = set(), {os.getpid()}
    while frontier:
        frontier = {pid for pid, parent in parents.items() if parent in frontier}
        found |= frontier
    return {pid for pid in found if "ps" not in name_of(pid)}


def name_of(process: int) -> str:
    """Return the name of a process's program, ``ps`` where it is gone."""
    try:
        return Path(f"/proc/{process}/comm").read_text(encoding="utf-8").strip()
    except FileNotFoundError:
        return "ps"


class RuntimeContract:
    """The laws of a runtime; each is a test."""

    @pytest.fixture(scope="class")
    @classmethod
    def folder(cls, tmp_path_factory: pytest.TempPathFactory) -> Path:
        """Return the folder of a tiny model."""
        return save_model("llama", tmp_path_factory.mktemp("model"))

    @pytest.fixture(scope="class")
    @classmethod
    def runtime(cls) -> Runtime:
        """Return the runtime under test."""
        raise NotImplementedError

    @pytest.fixture(scope="class")
    @classmethod
    def job(cls, folder: Path) -> Job:
        """Return two uneven stages of several formats, and requests of several lengths."""
        saved = saved_plan(folder, [("int8",), ("bf16", "int4", "int3")], prompt_tokens=16)
        assert len(saved.plan.layer_formats) == LAYERS
        return Job(saved, REQUESTS, folder)

    @pytest.fixture(scope="class")
    @classmethod
    def run(cls, runtime: Runtime, job: Job) -> tuple[Execution, list[Completion]]:
        """Return what one run gave, which several tests look at."""
        return carried_out(runtime, job)

    def test_every_request_is_finished_once(self, run: tuple[Execution, list[Completion]]) -> None:
        assert sorted(one.request for one in run[1]) == list(range(len(REQUESTS)))

    def test_tokens_are_counted_right(self, run: tuple[Execution, list[Completion]]) -> None:
        execution, served = run
        for one in served:
            assert len(one.tokens) == REQUESTS[one.request].output_tokens
            assert one.ended_by == "length"
            assert all(0 <= token < VOCABULARY for token in one.tokens)
        wanted = sum(request.output_tokens for request in REQUESTS)
        assert execution.result.output_tokens == wanted
        assert [one.output_tokens for one in execution.requests] == [
            request.output_tokens for request in REQUESTS
        ]

    def test_the_result_is_that_of_a_simulation(
        self, run: tuple[Execution, list[Completion]]
    ) -> None:
        execution = run[0]
        result = execution.result
        assert isinstance(result, SimulationResult)
        assert result.requests == result.finished == len(REQUESTS)
        assert len(result.stage_busy_s) == len(execution.stage_peak_bytes) == 2
        assert all(0 < share <= 1 for share in result.stage_busy_fraction)
        assert 0 < result.ttft_s.p50 <= result.latency_s.p99 <= result.makespan_s

    def test_instants_are_in_order(self, run: tuple[Execution, list[Completion]]) -> None:
        execution = run[0]
        for one in execution.requests:
            assert one.arrival_s <= one.first_s <= one.last_s <= execution.result.makespan_s
        for visit in execution.visits:
            assert visit.began_s <= visit.ended_s

    def test_no_stage_serves_two_visits_at_once(
        self, run: tuple[Execution, list[Completion]]
    ) -> None:
        for stage in range(2):
            visits = [visit for visit in run[0].visits if visit.stage == stage]
            assert [visit.visit for visit in visits] == list(range(len(visits)))
            for before, after in pairwise(visits):
                assert before.ended_s <= after.began_s

    def test_continuous_batching_finishes_every_request(self, runtime: Runtime, job: Job) -> None:
        late = replace(REQUESTS[4], arrival_s=0.05)
        online = replace(
            job, requests=(*REQUESTS[:4], late), policy="continuous", settings=SETTINGS
        )
        execution, served = carried_out(runtime, online)
        assert sorted(one.request for one in served) == list(range(len(REQUESTS)))
        assert execution.requests[4].first_s >= 0.05

    def test_a_stop_token_ends_an_output(
        self, runtime: Runtime, job: Job, run: tuple[Execution, list[Completion]]
    ) -> None:
        tokens = next(one.tokens for one in run[1] if one.request == 0)
        stop = tokens[2]
        place = tokens.index(stop)
        stopped = replace(job, requests=(replace(REQUESTS[0], stop_tokens=(stop,)), *REQUESTS[1:]))
        served = {one.request: one for one in carried_out(runtime, stopped)[1]}
        assert served[0].tokens == tokens[: place + 1]
        assert served[0].ended_by == "stop"

    def test_seeds_are_respected(self, runtime: Runtime, job: Job) -> None:
        same = [sampled_tokens(runtime, job, seed) for seed in (7, 7)]
        assert same[0] == same[1]
        assert sampled_tokens(runtime, job, 8) != same[0]

    def test_a_plan_that_does_not_cover_the_model_is_refused(
        self, runtime: Runtime, job: Job
    ) -> None:
        short = replace(job.saved.plan, stages=job.saved.plan.stages[:1])
        with pytest.raises(LlmpqError, match="expected 4 layers in all, got 1"):
            runtime.check(replace(job, saved=replace(job.saved, plan=short)))

    def test_a_request_longer_than_the_cache_is_refused(self, runtime: Runtime, job: Job) -> None:
        long = TokenRequest("long", (5,) * 20, 10)
        with pytest.raises(LlmpqError, match="request long: has 20 prompt and 10 output tokens"):
            runtime.check(replace(job, requests=(long,)))

    def test_a_plan_larger_than_its_devices_is_refused(
        self, runtime: Runtime, job: Job, folder: Path
    ) -> None:
        small = saved_plan(folder, [("int8",), ("bf16",) * 3], memory_bytes=2**20)
        with pytest.raises(LlmpqError, match="does not fit: stage 0 on cpu-0 needs"):
            runtime.check(replace(job, saved=small, requests=REQUESTS[:2]))

    def test_no_process_is_left(
        self, runtime: Runtime, job: Job, run: tuple[Execution, list[Completion]]
    ) -> None:
        assert run[1]
        assert children() == set()


def carried_out(runtime: Runtime, job: Job) -> tuple[Execution, list[Completion]]:
    """Return what a runtime measures and who was served, in order."""
    served: list[Completion] = []
    execution = runtime.run(job, served.append)
    assert execution is not None
    return execution, served


def sampled_tokens(runtime: Runtime, job: Job, seed: int) -> Sequence[tuple[int, ...]]:
    """Return the tokens of two sampled requests."""
    sampling = replace(SAMPLED, seed=seed)
    requests = tuple(replace(one, sampling=sampling) for one in (REQUESTS[0], REQUESTS[3]))
    served = carried_out(runtime, replace(job, requests=requests, options=RuntimeOptions()))[1]
    return [one.tokens for one in sorted(served, key=lambda one: one.request)]

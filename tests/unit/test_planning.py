from pathlib import Path

import pytest

from llmpq_sim.api.replaying import ServingOptions
from llmpq_sim.api.tasks import TaskOptions, batch_task, trace_task
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.scenario import BatchWorkload
from llmpq_sim.io.models import load_model
from llmpq_sim.io.tasks import QualityTarget
from llmpq_sim.io.workloads import DEFAULT_REQUESTS, TraceOptions
from llmpq_sim.simulator.continuous.settings import ServiceObjectives

OPTIONS = TaskOptions("paper-3", "int4,int8", "spec", (), QualityTarget("int8", None))
MODEL = load_model("opt-1.3b")
DRAWN = TraceOptions(lengths="D(100,20)", arrivals="poisson", rate_per_s=2.0)


def test_a_batch_task_has_the_formats_kernels_and_budget_asked_for() -> None:
    task, notes = batch_task(MODEL, BatchWorkload(64, (8,) * 4), OPTIONS)
    assert task.formats == ("int4", "int8")
    assert task.budget == task.quality.uniform_loss("int8")
    assert {profile.kernels for profile in task.costs.profiles.values()} == {"spec"}
    assert notes == []


def test_a_trace_task_seeks_goodput_where_there_are_limits_to_meet() -> None:
    task, _ = trace_task(MODEL, DRAWN, ServingOptions(ttft_ms=500.0), None, OPTIONS)
    assert task.objective == "goodput"
    assert task.objectives == ServiceObjectives(ttft_s=0.5)
    assert trace_task(MODEL, DRAWN, ServingOptions(), None, OPTIONS)[0].objective == "mean-latency"
    assert trace_task(MODEL, DRAWN, ServingOptions(), "cost", OPTIONS)[0].objective == "cost"


def test_it_has_as_many_requests_as_a_simulation_and_says_so() -> None:
    task, _ = trace_task(MODEL, DRAWN, ServingOptions(), None, OPTIONS)
    assert task.workload.requests == DEFAULT_REQUESTS
    assert task.workload.notes[-1] == f"{DEFAULT_REQUESTS} requests; --requests for others"
    batch = task.batch.costs.scenario.workload
    assert (batch.prompt_tokens, batch.output_tokens[0]) == (100, 20)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    missing = TraceOptions(str(tmp_path / "none.csv"))
    with pytest.raises(InputError, match=r"none\.csv: "):
        trace_task(MODEL, missing, ServingOptions(), None, OPTIONS)

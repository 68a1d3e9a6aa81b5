"""The library's front door: names, paths or objects in; what the commands use comes out."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import llmpq_sim
from llmpq_sim import api
from llmpq_sim.api import (
    Planned,
    QualityOptions,
    SearchSettings,
    ServingOptions,
    TraceOptions,
    load,
    plan,
    predict,
    replay,
    simulate,
    verify,
)
from llmpq_sim.core.errors import InfeasibleError, InputError
from llmpq_sim.io.clusters import load_cluster
from llmpq_sim.io.models import load_model
from llmpq_sim.io.plans import task_to_dict
from llmpq_sim.io.profiles import bundled_profile
from llmpq_sim.search.frame import SearchProgress
from tests.executions import executed, served

FEW = SearchSettings(generations=0, only_plans=True)


@pytest.fixture(scope="module")
def found() -> Planned:
    return plan(
        model="opt-125m", cluster="paper-4", batch=4, prompt_tokens=32, output_tokens=8,
        quality="int8", kernels="spec", settings=FEW,
    )  # fmt: skip


def test_names_and_objects_give_the_same_plan(found: Planned, tmp_path: Path) -> None:
    cluster = load_cluster("paper-4")
    kinds = {member.device.name: member.device for member in cluster.devices}
    (tmp_path / "lengths").write_text("8\n" * 4, encoding="utf-8")
    same = plan(
        model=load_model("opt-125m"), cluster=cluster, batch=4, prompt_tokens=32,
        output_tokens=tmp_path / "lengths", quality=QualityOptions(at_least="int8"),
        profiles=[bundled_profile(kind, "spec") for kind in kinds.values()],
        formats=("int3", "int4", "int8", "fp16"), settings=FEW,
    )  # fmt: skip
    assert same.content == found.content
    assert 0 <= found.gap_fraction < 1


def test_a_plan_is_saved_and_loaded_as_it_was(found: Planned, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    found.save(path)
    for loaded in (load(path), load(str(path)), load(found), load(found.saved)):
        assert loaded.plan == found.best.plan
        assert loaded.certificate.entries == found.saved.certificate.entries
        assert task_to_dict(loaded.task, loaded.target) == found.content["inputs"]
    assert simulate(path).result == simulate(found).result == found.best.result
    assert verify(path).bound_s == verify(found).bound_s


def test_another_batch_is_simulated(found: Planned) -> None:
    other = simulate(found, batch=8, output_tokens=[3, 5] * 4, prompt_tokens=10)
    assert other.task.costs.scenario.workload.output_tokens == (3, 5) * 4
    assert other.tokens_per_s == pytest.approx(32 / other.result.makespan_s)


def test_a_plan_that_does_not_fit_says_so_when_it_is_asked_for_times(found: Planned) -> None:
    member, *others = found.saved.task.costs.scenario.cluster.devices
    used = found.best.plan.stages[0].device
    devices = tuple(
        replace(one, device=replace(one.device, memory_bytes=2**30)) if one.name == used else one
        for one in (member, *others)
    )
    costs = found.saved.task.costs
    scenario = replace(costs.scenario, cluster=replace(costs.scenario.cluster, devices=devices))
    short = replace(
        found.saved, task=replace(found.saved.task, costs=type(costs)(scenario, costs.profiles))
    )
    with pytest.raises(InfeasibleError, match=r"^plan: does not fit: stage 0 on "):
        _ = simulate(short).tokens_per_s


def test_requests_over_time_are_planned_for_and_replayed(found: Planned) -> None:
    trace = TraceOptions(lengths="D(32,8)", arrivals="poisson", requests=20, rate_per_s=5.0)
    limits = ServingOptions(ttft_ms=500.0)
    served = replay(found, trace=trace, options=limits)
    assert served.service.result.finished == 20
    online = plan(
        model="opt-125m", cluster="paper-4", trace=trace, service=limits, quality="int8",
        kernels="spec", settings=FEW,
    )  # fmt: skip
    assert online.saved.serving is not None
    again = replay(online, trace=trace, options=limits).service.result
    assert again.goodput_per_s == online.outcome.best.result.goodput_per_s  # type: ignore[union-attr]


def test_a_name_stands_for_a_trace(found: Planned) -> None:
    asked = replay(found, trace=TraceOptions(trace="azure-conv", requests=30, seed=4))
    assert asked.seed == 4
    assert replay(found, trace="azure-conv", seed=4).seed == 4


def test_what_a_deployment_measured_is_predicted(found: Planned) -> None:
    requests = [served(20 + number, 4 + number % 3) for number in range(6)]
    execution = executed(found.saved, requests, times=2.0)
    prediction = predict(found, execution=execution)
    measured = execution.execution.result
    assert measured.makespan_s == pytest.approx(2 * prediction.result.makespan_s)


def test_a_trace_and_a_batch_do_not_go_together() -> None:
    with pytest.raises(InputError, match=r"^trace: brings its own requests"):
        plan(model="opt-125m", cluster="paper-4", trace="azure-conv", batch=4)


def test_a_search_without_a_checkpoint_cannot_be_resumed(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"^resume: goes with the checkpoint of a search"):
        plan(model="opt-125m", cluster="paper-4", resume=True)
    with pytest.raises(InputError, match=r"^resume: goes with the checkpoint of a search"):
        plan(
            model="opt-125m", cluster="paper-4", trace="azure-conv", resume=True,
            checkpoint=tmp_path / "state.json",
        )  # fmt: skip


def test_two_profiles_of_one_device_are_refused() -> None:
    device = load_cluster("paper-4").devices[0].device
    twice = [bundled_profile(device, "spec")] * 2
    with pytest.raises(InputError, match=f"another profile given is for {device.name} too"):
        plan(model="opt-125m", cluster="paper-4", profiles=twice)


def test_a_search_that_was_interrupted_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    checkpoint = tmp_path / "state.json"
    asked = {"model": "opt-125m", "cluster": "paper-4", "batch": 4, "prompt_tokens": 32}

    def stop(progress: SearchProgress) -> None:
        if checkpoint.exists():
            raise KeyboardInterrupt

    how = SearchSettings(generations=3, wants_front=True)
    stopped = plan(**asked, settings=how, checkpoint=checkpoint, on_progress=stop)  # type: ignore[arg-type]
    assert stopped.outcome.ended == "interrupted"
    stopped.save(tmp_path / "plan.json")
    assert checkpoint.exists()
    ended = plan(**asked, settings=how, checkpoint=checkpoint, resume=True)  # type: ignore[arg-type]
    assert ended.best.makespan_s <= stopped.best.makespan_s
    ended.save(tmp_path / "plan.json")
    assert not checkpoint.exists()


@pytest.mark.parametrize("package", [llmpq_sim, api])
def test_every_name_is_there_and_no_other(package: object) -> None:
    for name in package.__all__:  # type: ignore[attr-defined]
        assert getattr(package, name) is not None
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        package.nothing  # type: ignore[attr-defined]  # noqa: B018


def test_the_package_costs_nothing_before_it_is_used() -> None:
    code = "import sys, llmpq_sim.api; print({'numpy', 'rich', 'simpy'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"

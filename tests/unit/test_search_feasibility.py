import re

import pytest

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.core.units import GIB, MIB
from llmpq_sim.io.models import load_model
from llmpq_sim.search.bound.bound import Certificate, check_certificate, first_certificate
from llmpq_sim.search.bound.feasibility import check_feasible, needed_bytes, task_grid
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.relaxation import relax
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.planner import SearchSettings, search
from tests.builders import tiny_device, tiny_model, tiny_scenario, tiny_task


def large_task(formats: tuple[str, ...], budget: float) -> PlanningTask:
    """Return OPT-30b on two devices with 15 GiB each beside the runtime."""
    scenario = tiny_scenario(
        [tiny_device(room_mib=15 * 1024, formats=("fp16", "int8", "int4", "int3"))] * 2,
        model=load_model("opt-30b"),
        prompt_tokens=512,
        output_tokens=(100,) * 4,
    )
    return tiny_task(scenario, formats=formats, budget=budget)


def certified(task: PlanningTask) -> tuple[PlanningTask, Certificate]:
    return task, first_certificate(Screen(task), task_grid(task), lambda done, total: None)


def refusal(task: PlanningTask) -> str:
    with pytest.raises(InfeasibleError) as caught:
        check_feasible(*certified(task))
    return str(caught.value)


def test_a_model_that_is_too_large_is_refused_with_what_is_short() -> None:
    assert refusal(large_task(("int8", "fp16"), 1.0)) == (
        "opt-30b on tiny: does not fit at int8, the smallest allowed format: weights of 28.9 GiB "
        "and one request's KV cache of 0.8 GiB need 29.7 GiB, the devices have 29.1 GiB (2 x "
        "fast: 16.0 less 1.0 of runtime and 0.5 of temporaries for 512 prompt tokens at a time); "
        "0.7 GiB are short; it would fit at int4 or int3"
    )


def test_what_is_taken_is_stated_for_each_kind_of_device() -> None:
    devices = [
        tiny_device("light", room_mib=0.5, runtime_bytes=GIB // 4),
        tiny_device("usual", room_mib=0.5),
    ]
    task = tiny_task(tiny_scenario(devices, output_tokens=(2,)), formats=("fp16",))
    assert (
        "(1 x light: 0.3 less 0.2 of runtime and 0.0 of temporaries, 1 x usual: 1.0 less 1.0 of "
        "runtime and 0.0 of temporaries for 16 prompt tokens at a time)"
    ) in refusal(task)


def long_task(
    prompt_tokens: int, formats: tuple[str, ...] = ("int8",), room_mib: float = 16 * 1024
) -> PlanningTask:
    """Return one request for OPT-13b on a device with so much beside the runtime."""
    scenario = tiny_scenario(
        [tiny_device(room_mib=room_mib, formats=("fp16", "int8", "int4"))],
        model=load_model("opt-13b"),
        prompt_tokens=prompt_tokens,
        output_tokens=(8,),
    )
    return tiny_task(scenario, formats=formats, budget=1.0)


def test_requests_are_as_long_as_the_advice_says_and_no_longer() -> None:
    text = refusal(long_task(8192))
    found = re.search(r"requests of (\d+) tokens with their output have room; it would", text)
    assert found is not None
    longest = int(found[1]) - 8
    check_feasible(*certified(long_task(longest)))
    assert f"requests of {longest + 8} tokens" in refusal(long_task(longest + 16))


def test_long_prompts_may_be_cut_and_short_ones_where_nothing_fits_whole() -> None:
    sizes = {batching.chunk_tokens for batching in task_grid(long_task(2048, ("int4",)))}
    assert sizes == {None, 512, 1024}
    sizes = {batching.chunk_tokens for batching in task_grid(long_task(2047, ("int4",)))}
    assert sizes == {None}
    sizes = {batching.chunk_tokens for batching in task_grid(long_task(2047, ("fp16",)))}
    assert sizes == {None, 512, 1024}


def test_a_prompt_whose_temporaries_have_no_room_is_planned_in_chunks() -> None:
    needed_mib = needed_bytes(long_task(2900), "int8") / MIB
    task = long_task(2900, room_mib=needed_mib + 400)
    assert not relax(Screen(task).problem(MicroBatching(1, 1, 1))).is_feasible
    found = search(task, SearchSettings(generations=1))
    assert found.best.plan.micro_batching.chunk_tokens is not None
    proven_s = check_certificate(found.certificate, Screen(task), task_grid(task))
    assert proven_s == pytest.approx(found.best.makespan_s, rel=0.02)


def test_a_quality_out_of_reach_is_refused_with_one_that_is_not() -> None:
    assert refusal(large_task(("int3", "int4", "fp16"), 0.01)) == (
        "opt-30b on tiny: no plan fits the memory within a quality loss of 0.01 nominal nats; "
        "with one request in flight int4 everywhere would fit and lose 0.058: try "
        "--quality-at-least int4"
    )


def test_layers_that_fit_only_in_pieces_are_refused_as_such() -> None:
    """Three devices with room for 1.7 layers each hold five pieces, but three whole layers."""
    devices = [tiny_device(room_mib=3.2)] * 3
    task = tiny_task(tiny_scenario(devices, output_tokens=(2,)), formats=("fp16",))
    assert refusal(task) == (
        "tiny on tiny: no plan fits the memory within a quality loss of 0 nominal nats; whole "
        "layers do not divide over the devices; allow more loss or shorter requests"
    )


def test_a_feasible_task_is_not_refused() -> None:
    task = tiny_task()
    certificate = first_certificate(Screen(task), task_grid(task), lambda done, total: None)
    check_feasible(task, certificate)


def test_a_tied_matrix_is_needed_once_by_one_device_only() -> None:
    tied, matrix = tiny_model(tied=True), 2 * 1024 * 256
    one, two = (
        needed_bytes(tiny_task(tiny_scenario([tiny_device()] * count, model=tied)), "int4")
        for count in (1, 2)
    )
    assert two - one == matrix
    assert two < GIB

import pytest

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.core.units import GIB
from llmpq_sim.io.models import load_model
from llmpq_sim.search.bound.bound import first_certificate
from llmpq_sim.search.bound.feasibility import check_feasible, needed_bytes, task_grid
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.screening import Screen
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


def refusal(task: PlanningTask) -> str:
    certificate = first_certificate(Screen(task), task_grid(task), lambda done, total: None)
    with pytest.raises(InfeasibleError) as caught:
        check_feasible(task, certificate)
    return str(caught.value)


def test_a_model_that_is_too_large_is_refused_with_what_is_short() -> None:
    assert refusal(large_task(("int8", "fp16"), 1.0)) == (
        "opt-30b on tiny: does not fit at int8, the smallest allowed format: layers, embedding and "
        "one request's KV cache need 29.7 GiB, the devices have 29.1 GiB beside 1.0 GiB of runtime "
        "and workspace each; 0.7 GiB are short; it would fit at int4 or int3"
    )


def test_what_runtimes_take_is_stated_as_a_range_where_they_differ() -> None:
    devices = [
        tiny_device("light", room_mib=0.5, runtime_bytes=GIB // 4),
        tiny_device("usual", room_mib=0.5),
    ]
    task = tiny_task(tiny_scenario(devices, output_tokens=(2,)), formats=("fp16",))
    assert "beside 0.2 to 1.0 GiB of runtime and workspace each" in refusal(task)


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

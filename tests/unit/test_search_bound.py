from collections.abc import Callable
from dataclasses import replace

import pytest

from llmpq_sim.core.errors import CertificateError
from llmpq_sim.core.memory import plan_memory
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.search.bound.bound import (
    BoundEntry,
    CellProof,
    Certificate,
    check_certificate,
    first_certificate,
    near,
    tighten,
)
from llmpq_sim.search.bound.certificate import Split, bound_s
from llmpq_sim.search.bound.feasibility import task_grid
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.simulator.static.simulate import simulate_static
from tests.builders import (
    plan_at,
    tiny_cluster,
    tiny_device,
    tiny_model,
    tiny_scenario,
    tiny_task,
)

CUTS = MicroBatching(1, 1, 1)


@pytest.fixture(name="task", scope="module")
def _task() -> PlanningTask:
    return tiny_task(tiny_scenario(output_tokens=(5, 5)), budget=0.03)


@pytest.fixture(name="screen", scope="module")
def _screen(task: PlanningTask) -> Screen:
    return Screen(task)


@pytest.fixture(name="certificate", scope="module")
def _certificate(task: PlanningTask, screen: Screen) -> Certificate:
    """The certificate of a task whose best plan splits the layers in half."""
    first = first_certificate(screen, task_grid(task), lambda done, total: None)
    best = plan_at(task.costs.scenario, ((0, 3), (1, 1)), ["int4"] * 2 + ["int8"] * 2, CUTS)
    makespan_s = simulate_static(best, task.costs).makespan_s
    tighten(first, screen, makespan_s, lambda done, total: None)
    return first


def refusal(
    certificate: Certificate, screen: Screen, change: Callable[[BoundEntry], BoundEntry]
) -> str:
    """Return what is said when the entry of one micro-batching is changed."""
    entries = {**certificate.entries, CUTS: change(certificate.entries[CUTS])}
    with pytest.raises(CertificateError) as caught:
        check_certificate(Certificate(entries), screen, task_grid(screen.task))
    return str(caught.value)


def test_a_certificate_proves_its_bound_by_arithmetic(
    certificate: Certificate, screen: Screen
) -> None:
    proven_s = check_certificate(certificate, screen, task_grid(screen.task))
    assert proven_s == pytest.approx(certificate.bound_s, rel=1e-12)


def test_cells_prove_more_than_the_relaxation_alone(
    certificate: Certificate, screen: Screen
) -> None:
    first = first_certificate(screen, task_grid(screen.task), lambda done, total: None)
    refined = [batching for batching, entry in certificate.entries.items() if entry.cells]
    assert refined
    for batching in refined:
        assert certificate.entries[batching].bound_s > first.entries[batching].bound_s


def test_a_bound_raised_by_a_thousandth_is_refused(
    certificate: Certificate, screen: Screen
) -> None:
    stated_s = 1.001 * certificate.entries[CUTS].bound_s
    said = refusal(certificate, screen, lambda entry: replace(entry, bound_s=stated_s))
    assert said == (
        f"certificate: prefill 1, decode 1, groups 1 states {stated_s:.6g} s, its multipliers "
        f"prove {certificate.entries[CUTS].bound_s:.6g} s"
    )


def test_a_bound_that_is_no_number_is_refused(certificate: Certificate, screen: Screen) -> None:
    said = refusal(certificate, screen, lambda entry: replace(entry, bound_s=float("nan")))
    assert said.startswith("certificate: prefill 1, decode 1, groups 1 states nan s, its")


@pytest.mark.parametrize("weight", [5e-324, 1e18, -1.0, 0.0])
def test_weights_of_any_size_prove_a_bound_that_is_no_higher(
    certificate: Certificate, screen: Screen, weight: float
) -> None:
    first = first_certificate(screen, task_grid(screen.task), lambda done, total: None)
    multipliers = first.entries[CUTS].multipliers
    waves = tuple(replace(wave, prefill=(weight, weight)) for wave in multipliers.waves)
    proven_s = bound_s(screen.problem(CUTS), replace(multipliers, waves=waves))
    assert proven_s <= first.entries[CUTS].bound_s * (1 + 1e-9)


def test_a_missing_micro_batching_is_refused(certificate: Certificate, screen: Screen) -> None:
    grid = task_grid(screen.task)
    entries = {
        batching: entry
        for batching, entry in certificate.entries.items()
        if batching not in grid[:2]
    }
    with pytest.raises(CertificateError) as caught:
        check_certificate(Certificate(entries), screen, grid)
    assert str(caught.value) == (
        "certificate: expected an entry for every micro-batching, 2 are missing, the first is "
        "prefill 1, decode 1, groups 2"
    )


def test_multipliers_for_other_devices_are_refused(
    certificate: Certificate, screen: Screen
) -> None:
    def shorter(entry: BoundEntry) -> BoundEntry:
        return replace(entry, multipliers=replace(entry.multipliers, byte_price_s=(0.0,)))

    assert refusal(certificate, screen, shorter) == (
        "certificate: prefill 1, decode 1, groups 1 expected 2 multipliers of a kind, got 1"
    )


def test_cells_of_like_layers_prove_nothing_about_layers_that_differ(
    certificate: Certificate,
) -> None:
    entry = next(entry for entry in certificate.entries.values() if entry.cells)
    task = tiny_task(tiny_scenario(output_tokens=(5, 5)), sensitivity=[1.0, 2.0, 3.0, 4.0])
    with pytest.raises(CertificateError) as caught:
        check_certificate(Certificate({CUTS: entry}), Screen(task), [CUTS])
    assert str(caught.value) == (
        "certificate: prefill 1, decode 1, groups 1 expected 6 multipliers of a kind, got 0"
    )


def test_a_tree_grafted_on_a_higher_target_is_refused(
    certificate: Certificate, screen: Screen
) -> None:
    def raised(entry: BoundEntry) -> BoundEntry:
        source = next(each for each in certificate.entries.values() if each.cells)
        assert source.cells is not None
        target_s = 3 * source.bound_s
        leaf = source.cells.tree
        while isinstance(leaf, Split):
            leaf = leaf.above
        tree = Split("prefill", target_s / 2, leaf, leaf)
        return replace(entry, bound_s=target_s, cells=CellProof(target_s, tree))

    said = refusal(certificate, screen, raised)
    assert said.startswith("certificate: prefill 1, decode 1, groups 1 states ")


def test_promising_micro_batchings_come_in_the_order_of_their_bounds(
    certificate: Certificate,
) -> None:
    bounds_s = [certificate.entries[batching].bound_s for batching in certificate.promising()]
    assert bounds_s == sorted(bounds_s)
    assert set(certificate.promising()) == certificate.feasible


def test_the_bound_of_a_certificate_is_the_lowest_of_its_entries(
    certificate: Certificate,
) -> None:
    assert certificate.bound_s == min(entry.bound_s for entry in certificate.entries.values())
    assert near(1.005) == pytest.approx(1.0)


def test_a_device_that_holds_a_tied_matrix_once_is_not_ruled_out() -> None:
    scenario = tiny_scenario([tiny_device()], model=tiny_model(tied=True), output_tokens=(2,))
    plan = plan_at(scenario, ((0, 4),), ["fp16"] * 4, CUTS)
    (stage,) = plan_memory(plan, scenario)
    exact = replace(tiny_device(), memory_bytes=stage.total_bytes)
    slow = tiny_device("slow", room_mib=0.0)
    task = tiny_task(replace(scenario, cluster=tiny_cluster([exact, slow])), formats=("fp16",))
    certificate = first_certificate(Screen(task), [CUTS], lambda done, total: None)
    assert certificate.feasible == {CUTS}
    assert certificate.bound_s <= simulate_static(plan, task.costs).makespan_s

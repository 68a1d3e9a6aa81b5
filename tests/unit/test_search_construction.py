import math
from itertools import pairwise, permutations

from hypothesis import given, settings
from hypothesis import strategies as st

from llmpq_sim.core.cluster import Link
from llmpq_sim.core.plan import MicroBatching, check_plan
from llmpq_sim.quality.table import QualityTable, nominal_quality
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.construction import arrange_layers, best_formats, order_devices
from llmpq_sim.search.scoring import fits, keeps_budget
from tests.builders import every_placement, every_plan, tiny_cluster, tiny_device, tiny_task
from tests.strategies import quality_tables, tasks, tenfold

CUTS = MicroBatching(1, 1, 1)


@settings(deadline=None, max_examples=60)
@given(st.lists(tenfold(0.1), min_size=6, max_size=6), st.integers(0, 5), st.data())
def test_formats_of_a_stage_are_arranged_for_the_least_loss(
    sensitivity: list[float], first: int, data: st.DataObject
) -> None:
    task = tiny_task(quality=nominal_quality(6, sensitivity))
    count = data.draw(st.integers(1, 6 - first))
    names = data.draw(st.lists(st.sampled_from(task.formats), min_size=count, max_size=count))
    arranged = arrange_layers(
        task, [names.count(name) for name in task.formats], range(first, first + count)
    )
    assert sorted(arranged) == sorted(names)

    def loss(formats: tuple[str, ...]) -> float:
        return sum(task.quality.losses[name][first + offset] for offset, name in enumerate(formats))

    assert loss(arranged) <= min(map(loss, permutations(names))) * (1 + 1e-12)


@settings(deadline=None, max_examples=60)
@given(quality_tables(6), st.integers(0, 5), st.data())
def test_formats_are_arranged_for_the_least_loss_of_any_table(
    quality: QualityTable, first: int, data: st.DataObject
) -> None:
    task = tiny_task(quality=quality, budget=1.0)
    count = data.draw(st.integers(1, 6 - first))
    names = data.draw(st.lists(st.sampled_from(task.formats), min_size=count, max_size=count))
    arranged = arrange_layers(
        task, [names.count(name) for name in task.formats], range(first, first + count)
    )
    assert sorted(arranged) == sorted(names)

    def loss(formats: tuple[str, ...]) -> float:
        return sum(quality.losses[name][first + offset] for offset, name in enumerate(formats))

    assert loss(arranged) <= min(map(loss, permutations(names))) * (1 + 1e-12)


def test_a_layer_is_spared_the_format_that_breaks_it() -> None:
    losses: dict[str, tuple[float, ...]] = {
        "fp16": (0.0,) * 4,
        "int8": (1.0, 1.0, 1.0, 5.0),
        "int4": (math.inf, 9.0, 8.0, 9.0),
    }
    task = tiny_task(quality=QualityTable("any", losses), budget=100.0)
    assert arrange_layers(task, [1, 2, 1], range(4)) == ("int8", "int8", "int4", "fp16")
    assert arrange_layers(task, [1, 0, 0], range(1)) == ("int4",)


def test_equal_layers_keep_the_most_precise_formats_in_front() -> None:
    task = tiny_task()
    assert arrange_layers(task, [1, 1, 2], range(4)) == ("fp16", "fp16", "int8", "int4")


@settings(deadline=None)
@given(st.lists(st.builds(Link, tenfold(1e-6), tenfold(1e6)), min_size=10, max_size=10))
def test_devices_between_the_ends_are_ordered_for_fast_links(links: list[Link]) -> None:
    cluster = tiny_cluster([tiny_device()] * 5, links)

    def length_s(order: list[int]) -> float:
        return sum(cluster.link(a, b).transfer_s(1e6) for a, b in pairwise(order))

    order = order_devices(cluster, range(5), 3, 1)
    assert sorted(order) == list(range(5))
    assert (order[0], order[-1]) == (3, 1)
    shortest_s = min(length_s([3, *middle, 1]) for middle in permutations([0, 2, 4]))
    assert length_s(order) == shortest_s


def test_many_devices_are_ordered_nearest_first() -> None:
    cluster = tiny_cluster([tiny_device()] * 9)
    links = {pair: Link(0.0, 1e6 / (pair[1] - pair[0])) for pair in cluster.links}
    line = type(cluster)(cluster.name, cluster.devices, links)
    assert order_devices(line, range(9), 0, 8) == list(range(9))


def test_a_single_device_is_an_order() -> None:
    assert order_devices(tiny_cluster([tiny_device()] * 3), [1], 1, 1) == [1]


@settings(deadline=None, max_examples=25)
@given(tasks(), st.data())
def test_the_best_formats_of_a_partition_are_as_good_as_any(
    task: PlanningTask, data: st.DataObject
) -> None:
    scenario, screen = task.costs.scenario, Screen(task)
    devices, layers = len(scenario.cluster.devices), scenario.model.layers
    placement = data.draw(st.sampled_from(list(every_placement(devices, layers))))
    order, counts = [device for device, _ in placement], [count for _, count in placement]
    found = best_formats(task, CUTS, order, counts)
    names = [scenario.cluster.devices[device].name for device in order]
    wanted = [(name, count) for name, count in zip(names, counts, strict=True)]
    others_s = [
        screen.makespan_s(plan)
        for plan in every_plan(task, CUTS)
        if [(stage.device, len(stage.formats)) for stage in plan.stages] == wanted
        and fits(plan, task)
        and keeps_budget(plan, task)
    ]
    if found is None:
        assert not others_s
        return
    check_plan(found, scenario)
    assert fits(found, task)
    assert keeps_budget(found, task)
    if others_s:
        assert screen.makespan_s(found) <= min(others_s) * (1 + 1e-3)


def test_no_formats_are_found_where_none_keeps_the_budget() -> None:
    assert best_formats(tiny_task(budget=0.0), CUTS, [0], [4]) is not None
    assert best_formats(tiny_task(budget=0.0, formats=("int4",)), CUTS, [0], [4]) is None

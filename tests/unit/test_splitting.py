from pathlib import Path

import pytest

from llmpq_sim.api.planning import plan
from llmpq_sim.api.quality_target import QualityOptions
from llmpq_sim.api.splitting import Rows, Split, asked_pins, asked_split, plan_split
from llmpq_sim.api.tasks import TaskOptions
from llmpq_sim.api.verification import verify
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.core.scenario import BatchWorkload
from llmpq_sim.io.plans import load_plan
from llmpq_sim.io.tasks import quality_target
from llmpq_sim.search.grid import micro_batching_grid
from llmpq_sim.search.pins import Pins
from llmpq_sim.search.planner import SearchSettings
from tests.builders import tiny_cluster, tiny_device, tiny_model

CLUSTER = tiny_cluster([tiny_device("a"), tiny_device("b"), tiny_device("c")])
MODEL = tiny_model(8)


@pytest.mark.parametrize(
    ("split", "pins"),
    [
        (Split("4,3,1"), Pins(("a-0", "b-1", "c-2"), (4, 3, 1))),
        (Split(" 5, 0 ,3"), Pins(("a-0", "c-2"), (5, 3))),
        (Split([6, 2]), Pins(("a-0", "b-1"), (6, 2))),
        (Split("2,6", "c-2, a-0"), Pins(("c-2", "a-0"), (2, 6))),
        (Split("8", layer_formats="int8"), Pins(("a-0",), (8,), ("int8",) * 8)),
        (
            Split("8", ["b-1"], ["int4"] * 6 + ["fp16"] * 2),
            Pins(("b-1",), (8,), ("int4",) * 6 + ("fp16",) * 2),
        ),
    ],
)
def test_layers_go_to_devices_in_order(split: Split, pins: Pins) -> None:
    assert asked_pins(split, MODEL, CLUSTER) == pins


@pytest.mark.parametrize(
    ("split", "message"),
    [
        (Split("4,3"), r"4 \+ 3 are 7 layers, tiny has 8; in the same proportions: 5,3$"),
        (Split("24,12,12"), r"are 48 layers, tiny has 8; in the same proportions: 4,2,2$"),
        (Split("0,0"), r"0 \+ 0 are 0 layers, tiny has 8$"),
        (Split("2,2,2,2"), r"4 numbers, tiny has 3 devices \(a-0, b-1, c-2\)"),
        (Split("4,4", "a-0"), r"2 numbers, --device-order names 1 devices \(a-0\)"),
        (Split("4,x"), r"expected whole numbers of layers .* got 'x'"),
        (Split("4,,4"), r"got ''"),
        (Split([9, -1]), r"got '-1'"),
        (Split("4.0,4"), r"got '4\.0'"),
        (Split("9" * 30), r"got '9{30}'"),
        (Split("4,4", "a-0,d-3"), r"--device-order: expected a device of tiny .* got 'd-3'"),
        (Split("4,4", "a-0,a-0"), r"--device-order: 'a-0' is named twice"),
        (Split("8", layer_formats="int7"), r"--layer-formats: expected a format .* got 'int7'"),
        (Split("8", layer_formats=["int8"]), r"formats of 8 layers, got 1"),
        (Split("8", layer_formats=["q"] * 8), r"layer 0: expected a weight format"),
    ],
)
def test_what_cannot_be_split_is_refused(split: Split, message: str) -> None:
    with pytest.raises(InputError, match=message):
        asked_pins(split, MODEL, CLUSTER)


def test_a_file_lists_formats_one_a_line_or_many(tmp_path: Path) -> None:
    path = tmp_path / "formats.txt"
    path.write_text("2 x int8\n\nint4\n  fp16 \n4 x int4\n")
    pins = asked_pins(Split("8", layer_formats=path), MODEL, CLUSTER)
    assert pins.formats == ("int8", "int8", "int4", "fp16", "int4", "int4", "int4", "int4")
    for content, message in (
        ("7 x int8", r"formats\.txt: expected the formats of 8 layers, got 7"),
        ("int8\n-1 x int8", r"formats\.txt:2: expected a number of layers, got '-1'"),
        ("8 x q4", r"formats\.txt:1: expected a weight format .* got 'q4'"),
    ):
        path.write_text(content)
        with pytest.raises(InputError, match=message):
            asked_pins(Split("8", layer_formats=str(path)), MODEL, CLUSTER)


def test_pinned_formats_are_allowed_and_set_the_quality_where_nothing_is_said_of_it() -> None:
    options = TaskOptions(CLUSTER, None, None, (), quality_target("int4"))
    mixed = ["int8"] * 4 + ["fp16"] * 4
    for formats, at_least in ((["int3"] * 8, "int3"), (mixed, None)):
        _, changed, said = asked_split(Split("8", None, formats), MODEL, options, QualityOptions())
        assert changed.formats is not None
        assert set(formats) <= set(changed.formats)
        assert changed.target.at_least == at_least
        assert len(said) == 1
    asked = QualityOptions(at_least="int8")
    _, changed, said = asked_split(Split("8", None, "int8"), MODEL, options, asked)
    assert (changed.target, said) == (options.target, ())
    narrow = TaskOptions(CLUSTER, "int4,int8", None, (), quality_target("int4"))
    with pytest.raises(InputError, match="fp16 is none of --formats"):
        asked_split(Split("8", None, "fp16"), MODEL, narrow, asked)


def test_micro_batches_are_those_of_the_grid_with_what_is_given_put_in() -> None:
    grid, batch = micro_batching_grid(8, 3), BatchWorkload(64, (4,) * 8)
    assert Rows().options(grid, batch) == grid
    given = Rows(decode_micro_batch=5).options(grid, batch)
    assert {each.decode for each in given} == {5}
    assert {each.groups_in_flight for each in given} == {1, 2}
    assert Rows(3, 5, 2).options(grid, batch) == [MicroBatching(3, 5, 2)]
    chunked = Rows(3, 5, 2, 32).options(grid, batch)
    assert chunked == [MicroBatching(3, 5, 2, 32)]
    for rows, message in (
        (Rows(prefill_chunk_tokens=65), r"--prefill-chunk-tokens: expected 1 to 64 \(the prompt\)"),
        (Rows(0), "--prefill-micro-batch: expected 1 to 8"),
        (Rows(None, 9), "--decode-micro-batch: expected 1 to 8"),
        (Rows(None, 4, 3), "--groups-in-flight: expected 1 to 2, got 3"),
        (Rows(None, None, -1), "--groups-in-flight: expected 1 to 8, got -1"),
    ):
        with pytest.raises(InputError, match=message):
            rows.options(grid, batch)


def test_a_plan_by_hand_is_a_plan_file_like_any_other(tmp_path: Path) -> None:
    planned = plan_split(
        Split("20,0,4", layer_formats="fp16"),
        model="opt-1.3b",
        cluster="t4-v100-a100",
        kernels="spec",
        batch=4,
        prompt_tokens=64,
        output_tokens=8,
        rows=Rows(decode_micro_batch=3),
    )
    planned.save(tmp_path / "p.json")
    saved = load_plan(tmp_path / "p.json", {})
    assert [len(stage.formats) for stage in saved.plan.stages] == [20, 4]
    assert saved.plan.micro_batching.decode == 3
    assert verify(saved).score.makespan_s == planned.best.makespan_s
    assert verify(saved).bound_s <= planned.best.makespan_s


def test_a_split_does_not_go_with_a_checkpoint_or_a_front(tmp_path: Path) -> None:
    for options, message in (
        ({"checkpoint": tmp_path / "c"}, "--layers: such a search keeps no checkpoint"),
        ({"settings": SearchSettings(wants_front=True)}, "--pareto: with --layers"),
    ):
        with pytest.raises(InputError, match=message):
            plan(model=MODEL, cluster=CLUSTER, split=Split("8"), **options)

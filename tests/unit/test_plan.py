from dataclasses import replace

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.core.plan import MicroBatching, Plan, Stage, check_plan
from llmpq_sim.core.records import from_dict, to_dict
from tests.builders import tiny_device, tiny_scenario

WHOLE = MicroBatching(2, 2, 2)
GOOD = (Stage("fast-0", ("int4", "int4")), Stage("slow-1", ("fp16", "int8")))


def message(stages: tuple[Stage, ...], batching: MicroBatching = WHOLE) -> str:
    """Return why a plan of the tiny scenario is refused."""
    devices = [tiny_device(), tiny_device("slow", formats=("fp16", "int8"))]
    with pytest.raises(InputError) as caught:
        check_plan(Plan(stages, batching), tiny_scenario(devices))
    return str(caught.value)


def test_a_plan_for_the_scenario_is_accepted() -> None:
    check_plan(Plan(GOOD, WHOLE), tiny_scenario())


def test_a_plan_must_have_all_layers() -> None:
    assert message(()) == "plan.stages: expected at least one stage, got none"
    assert message(GOOD[:1]) == "plan.stages: expected 4 layers in all, got 2"


def test_a_stage_must_have_a_layer_and_a_device_of_its_own() -> None:
    empty = Stage("slow-1", ())
    whole = Stage("fast-0", ("int4",) * 4)
    assert (
        message((whole, empty)) == "plan.stages[1].formats: expected at least one layer, got none"
    )
    assert message((GOOD[0], GOOD[0])) == (
        "plan.stages[1].device: 'fast-0' already runs an earlier stage"
    )
    assert message((Stage("fast-9", ("int4",) * 4),)) == (
        "plan.stages[0].device: expected a device of tiny (fast-0, slow-1), got 'fast-9'"
    )


def test_a_device_must_run_its_formats() -> None:
    assert message((Stage("slow-1", ("int4",) * 4),)) == (
        "plan.stages[0].formats: slow-1 (slow) cannot run int4; it runs fp16, int8"
    )
    assert message((Stage("fast-0", ("int7",) * 4),)) == (
        f"plan.stages[0].formats: expected a weight format ({', '.join(FORMATS)}), got 'int7'"
    )


def test_micro_batches_lie_within_the_batch() -> None:
    assert message(GOOD, MicroBatching(0, 2, 1)) == (
        "plan.prefill_micro_batch: expected 1 to 4 (the batch), got 0"
    )
    assert message(GOOD, MicroBatching(4, 5, 1)) == (
        "plan.decode_micro_batch: expected 1 to 4 (the batch), got 5"
    )
    assert message(GOOD, MicroBatching(4, 2, 3)) == "plan.groups_in_flight: expected 1 to 2, got 3"


@pytest.mark.parametrize("chunk_tokens", [0, 17])
def test_a_chunk_lies_within_the_prompt(chunk_tokens: int) -> None:
    assert message(GOOD, replace(WHOLE, chunk_tokens=chunk_tokens)) == (
        f"plan.prefill_chunk_tokens: expected 1 to 16 (the prompt), got {chunk_tokens}; "
        "leave it out to prefill whole prompts"
    )


def test_a_plan_without_chunks_is_written_as_before() -> None:
    assert list(to_dict(WHOLE)) == [
        "prefill_micro_batch",
        "decode_micro_batch",
        "groups_in_flight",
    ]
    cut = replace(WHOLE, chunk_tokens=5)
    assert from_dict(MicroBatching, Fields(to_dict(cut), "plan")) == cut
    assert cut.within(1).chunk_tokens == 5


def test_stages_know_their_first_layers() -> None:
    plan = Plan(GOOD, WHOLE)
    assert plan.first_layers() == [0, 2]
    assert plan.layer_formats == ("int4", "int4", "fp16", "int8")


def test_waves_take_groups_in_order() -> None:
    batching = MicroBatching(1, 3, 2)
    assert batching.waves(11) == [(3, 3), (3, 2)]
    assert batching.waves(7) == [(3, 2), (2,)]
    assert batching.wave_rows(7) == 5

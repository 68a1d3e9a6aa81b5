from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.core.layers import Attention, Dense
from llmpq_sim.report.layer_kinds import layer_kinds_content, layer_parts
from llmpq_sim.report.layer_map import (
    LayerMapLine,
    layer_kinds_legend,
    layer_map_legend,
    layer_map_lines,
)
from tests.kinds import DENSE, EXPERTS, LATENT, MLP_ALONE, RECURRENT, WINDOW, mixed_model
from tests.reports import plan_of


def test_a_strip_has_a_symbol_for_each_layer_and_numbers_for_stages() -> None:
    plan = plan_of(("a", "F88"), ("b", "4"), ("c", "33"))
    assert layer_map_lines(plan, 88) == [LayerMapLine("0   1 2", "F88|4|33")]
    assert layer_map_legend(plan) == "F is fp16, 8 is int8, 4 is int4, 3 is int3"


def test_a_strip_is_cut_between_stages() -> None:
    plan = plan_of(("a", "8888"), ("b", "44"), ("c", "333"))
    assert layer_map_lines(plan, 8) == [LayerMapLine("0    1", "8888|44"), LayerMapLine("2", "333")]


def test_a_stage_wider_than_a_line_goes_on_below_without_its_number() -> None:
    plan = plan_of(("a", "88888"), ("b", "4"))
    lines = [LayerMapLine("0", "888"), LayerMapLine("", "88"), LayerMapLine("1", "4")]
    assert layer_map_lines(plan, 3) == lines


def test_a_letter_says_of_which_kind_a_layer_is() -> None:
    plan = plan_of(("a", "F88"), ("b", "4"), ("c", "33333"))
    lines = layer_map_lines(plan, 5, (0, 1, 0, 1, 2, 2, 2, 2, 2))
    assert [line.kinds for line in lines] == ["aba|b", "ccccc"]
    model = mixed_model((DENSE, WINDOW))
    assert layer_kinds_legend(model) == "a is attention + MLP, b is attention within 8 + MLP"


def test_kinds_are_told_apart_and_plain_models_have_none() -> None:
    assert layer_parts(mixed_model((DENSE, DENSE))) == []
    assert layer_kinds_content(mixed_model((DENSE,))) == {}
    model = mixed_model((EXPERTS, LATENT, RECURRENT, MLP_ALONE, EXPERTS))
    assert layer_parts(model) == [
        "2 x attention + 2 of 8 experts",
        "1 x latent attention + MLP",
        "1 x gated-delta + MLP",
        "1 x MLP",
    ]
    narrow = replace(DENSE, mixer=Attention(4, 1, 32, 32), feed_forward=Dense(64))
    assert layer_kinds_content(mixed_model((DENSE, narrow, DENSE))) == {
        "layer_kinds": [
            {"kind": "attention 4/4 x 64 + MLP of 1024", "layers": 2},
            {"kind": "attention 4/1 x 32 + MLP of 64", "layers": 1},
        ]
    }


@given(
    st.lists(st.text("F843", min_size=1, max_size=12), min_size=1, max_size=14), st.integers(4, 40)
)
def test_every_layer_is_drawn_once_and_within_the_width(stages: list[str], width: int) -> None:
    plan = plan_of(*((str(number), layers) for number, layers in enumerate(stages)))
    lines = layer_map_lines(plan, width)
    assert "".join(line.layers for line in lines).replace("|", "") == "".join(stages)
    assert all(len(line.layers) <= width and len(line.stages) <= width for line in lines)
    lettered = layer_map_lines(plan, width, range(len("".join(stages))))
    assert [len(line.kinds) for line in lettered] == [len(line.layers) for line in lines]

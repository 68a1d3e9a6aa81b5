from hypothesis import given
from hypothesis import strategies as st

from llmpq_sim.report.layer_map import LayerMapLine, layer_map_legend, layer_map_lines
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


@given(
    st.lists(st.text("F843", min_size=1, max_size=12), min_size=1, max_size=14), st.integers(4, 40)
)
def test_every_layer_is_drawn_once_and_within_the_width(stages: list[str], width: int) -> None:
    plan = plan_of(*((str(number), layers) for number, layers in enumerate(stages)))
    lines = layer_map_lines(plan, width)
    assert "".join(line.layers for line in lines).replace("|", "") == "".join(stages)
    assert all(len(line.layers) <= width and len(line.stages) <= width for line in lines)

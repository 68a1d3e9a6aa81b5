import math

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.quality.table import NOMINAL_INT4_LOSS_NATS, QualityTable, nominal_quality


def test_a_plan_loses_the_sum_over_its_layers() -> None:
    table = QualityTable("nats", {"fp16": (0.0, 0.0, 0.0), "int4": (0.1, 0.2, 0.4)})
    assert table.plan_loss(["int4", "fp16", "int4"]) == 0.5
    assert table.uniform_loss("int4") == pytest.approx(0.7)


def test_an_unknown_format_has_no_loss() -> None:
    table = QualityTable("nats", {"fp16": (0.0,), "int4": (0.1,)})
    with pytest.raises(InputError) as caught:
        table.uniform_loss("int7")
    assert str(caught.value) == "quality: expected a format of fp16, int4, got 'int7'"


def test_nominal_losses_follow_the_square_of_the_scale() -> None:
    table = nominal_quality(7)
    assert table.uniform_loss("int4") == pytest.approx(NOMINAL_INT4_LOSS_NATS)
    assert table.uniform_loss("int3") == pytest.approx(NOMINAL_INT4_LOSS_NATS * (7 / 3) ** 2)
    assert table.uniform_loss("int8") == pytest.approx(NOMINAL_INT4_LOSS_NATS * (7 / 127) ** 2)
    assert table.uniform_loss("fp16") == table.uniform_loss("bf16") == 0.0


def test_nominal_int3_lies_between_the_papers_two_models() -> None:
    """ln of the perplexity ratio to 8 bits on WikiText2: LLM-PQ's notebooks."""
    assert 0.250 < nominal_quality(1).uniform_loss("int3") < 0.377


def test_sensitive_layers_lose_their_share_of_the_same_total() -> None:
    table = nominal_quality(3, [1.0, 2.0, 5.0])
    assert table.measure == "nominal nats, weighted by sensitivity"
    assert table.uniform_loss("int4") == pytest.approx(NOMINAL_INT4_LOSS_NATS)
    assert table.losses["int4"][2] == pytest.approx(5 * table.losses["int4"][0])
    assert nominal_quality(3).measure == "nominal nats"


def test_intervals_add_up_standard_errors_and_the_error_of_sums() -> None:
    losses: dict[str, tuple[float, ...]] = {"fp16": (0.0, 0.0), "int4": (0.1, 0.3)}
    table = QualityTable("nats", losses, {"int4": (0.01, 0.02)}, 0.1)
    assert table.interval(["int4", "int4"]) == pytest.approx(0.1 * 0.4 + 2 * 0.03)
    assert table.interval(["fp16", "int4"]) == pytest.approx(0.1 * 0.3 + 2 * 0.02)
    assert table.interval(["fp16", "fp16"]) == 0.0
    assert QualityTable("nats", losses, {"int4": (0.25, 0.5)}).interval(["int4"] * 2) == 1.5
    assert nominal_quality(2).interval(["int4", "int4"]) == 0.0


def test_perplexity_rises_with_the_exponential_of_the_loss() -> None:
    table = QualityTable("nats", {"fp16": (0.0,)}, reference_nats=math.log(12.0))
    assert table.perplexity(0.0) == pytest.approx(12.0)
    assert table.perplexity(math.log(2.0)) == pytest.approx(24.0)
    assert table.perplexity(1e9) == table.perplexity(math.inf) == math.inf
    assert nominal_quality(1).perplexity(0.1) is None


def test_only_the_proportions_of_sensitivities_matter() -> None:
    one, other = nominal_quality(2, [1.0, 3.0]), nominal_quality(2, [10.0, 30.0])
    assert one.losses["int8"] == pytest.approx(other.losses["int8"])

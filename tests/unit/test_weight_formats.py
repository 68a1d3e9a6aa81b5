"""Weight formats: records that do not contradict each other, and one more that is planned with."""

from collections import Counter
from pathlib import Path

import pytest

from llmpq_sim.api.verification import verify
from llmpq_sim.core.cluster import Cluster
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import FORMATS, WeightFormat, format_spelled
from llmpq_sim.core.plan import MicroBatching, Plan, Stage
from llmpq_sim.core.scenario import Scenario
from llmpq_sim.io.clusters import load_cluster
from llmpq_sim.io.devices import load_devices
from llmpq_sim.io.files import write_json
from llmpq_sim.io.models import load_model
from llmpq_sim.io.plans import load_plan, outcome_to_dict
from llmpq_sim.io.profiles import cluster_profiles
from llmpq_sim.io.tasks import batch_workload, chosen_formats, planning_task, quality_target
from llmpq_sim.latency.fitting.fit import fit_profile
from llmpq_sim.latency.spec import spec_profile
from llmpq_sim.quality.table import nominal_quality
from llmpq_sim.report.layer_map import layer_map_legend, layer_map_lines
from llmpq_sim.report.tables import bundled_listing
from llmpq_sim.search.baselines import bit_transfer
from llmpq_sim.search.baselines.bit_transfer import exchanges
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.planner import SearchSettings, search
from tests.measured import gemm_grid, lab_device, measured
from tests.qualities import measured_quality

E4M3 = WeightFormat(
    name="e4m3",
    bits=8,
    group_size=None,
    group_bits=32,
    quantizer="nearest E4M3 number, scale per output row",
    steps=40.0,
    rate_fraction=2.0,
    spellings=("e4m3",),
    symbol="y",
    colour="blue",
)
"""A format of as many bits as int8, with more noise and arithmetic of its own."""

TARGET = quality_target("0.003")

CLUSTER = """\
schema: llmpq/cluster
version: 1
name: two-kinds
device_types:
  - {name: old, memory_gib: 0.6, runtime_gib: 0.2, memory_gb_per_s: 300, fp16_tflops: 60}
  - {name: new, memory_gib: 0.6, runtime_gib: 0.2, memory_gb_per_s: 300, fp16_tflops: 60,
     extra_formats: [bf16, e4m3]}
nodes:
  - name: node-0
    link: {latency_us: 10, gb_per_s: 10}
    devices: [{type: old, count: 1}, {type: new, count: 1}]
"""


@pytest.fixture
def with_e4m3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FORMATS, "e4m3", E4M3)


@pytest.fixture
def cluster(with_e4m3: None, tmp_path: Path) -> Cluster:
    return read_cluster(CLUSTER, tmp_path)


def read_cluster(text: str, folder: Path) -> Cluster:
    path = folder / "lab.yaml"
    path.write_text(text, encoding="utf-8")
    return load_cluster(str(path))


@pytest.fixture
def task(cluster: Cluster) -> PlanningTask:
    return task_on(cluster)


def task_on(cluster: Cluster) -> PlanningTask:
    """Return a task that is fastest in 8 bits, and loses too much in fewer."""
    model = load_model("opt-125m")
    formats = chosen_formats("int4,int8,e4m3,fp16", model, cluster)
    scenario = Scenario(model, cluster, batch_workload(model, 4, 512, 4))
    return planning_task(scenario, cluster_profiles(cluster, "spec", {}), formats, TARGET)


def test_no_two_records_share_a_symbol_or_a_spelling() -> None:
    symbols = [each.symbol for each in FORMATS.values()]
    spellings = [spelling for each in FORMATS.values() for spelling in each.spellings]
    assert all(len(symbol) == 1 for symbol in symbols)
    assert len(set(symbols)) == len(symbols)
    assert len(set(spellings)) == len(spellings)
    assert format_spelled("int3_wo") == "int3"
    assert format_spelled("bf16") == "fp16"
    assert format_spelled("w8a8") == ""


def test_even_grids_have_as_many_steps_as_their_bits_allow() -> None:
    for each in FORMATS.values():
        if each.engines == ("torch",) or not each.is_quantized:
            steps = 2 ** (each.bits - 1) - 1 if each.is_quantized else None
            assert each.steps == steps, each.name


def test_devices_run_every_weight_only_format_and_what_they_have_besides(cluster: Cluster) -> None:
    old, new = (member.device for member in cluster.devices)
    assert old.formats == ("fp16", "int8", "int4", "int3")
    assert new.formats == ("fp16", "bf16", "int8", "int4", "int3", "e4m3")
    assert load_devices()["t4"].formats == old.formats
    assert load_devices()["h100-sxm"].formats == new.formats[:-1]


def test_one_more_record_is_planned_with_kept_and_proven(
    task: PlanningTask, tmp_path: Path
) -> None:
    outcome = search(task, SearchSettings(generations=1, only_plans=True))
    plan, path = outcome.best.plan, tmp_path / "plan.json"
    by_kind = {stage.device[:3]: set(stage.formats) for stage in plan.stages}
    assert "e4m3" in by_kind["new"]
    assert "int8" in by_kind["old"]
    write_json(path, outcome_to_dict(outcome, TARGET))
    saved = load_plan(path, {})
    assert saved.plan == plan
    assert verify(saved).gap_fraction == pytest.approx(outcome.gap_fraction)
    layers = "".join(line.layers for line in layer_map_lines(plan, 88))
    assert layers.count("y") == plan.layer_formats.count("e4m3")
    assert layers.count("8") == plan.layer_formats.count("int8")
    assert {"y is e4m3", "8 is int8"} <= set(layer_map_legend(plan).split(", "))


def test_its_loss_follows_from_its_noise_and_its_speed_from_its_arithmetic(
    task: PlanningTask,
) -> None:
    table = nominal_quality(12)
    ratio = table.uniform_loss("e4m3") / table.uniform_loss("int8")
    assert ratio == pytest.approx((127 / 40) ** 2)
    new = task.costs.scenario.cluster.devices[1].device
    profile = spec_profile(new)
    many = {name: float(profile.gemm_s(name, 8192, 8192, 8192)) for name in new.formats}
    assert many["e4m3"] == pytest.approx(many["fp16"] / 2, rel=1e-3)
    assert many["int8"] == pytest.approx(many["fp16"] / 0.95, rel=1e-3)
    assert profile.notes[-1] == "e4m3: assumed to multiply at 2 times the 16-bit rate."


def test_exchanges_of_bit_transfer_keep_formats_of_equal_bits_apart(with_e4m3: None) -> None:
    assert exchanges(("int4", "int8", "fp16")) == [
        ("fp16", "int8", 2), ("int8", "int8", 1), ("fp16", "int4", 4), ("fp16", "int4", 2),
        ("int8", "int4", 2), ("int4", "int4", 1),
    ]  # fmt: skip
    both = exchanges(("int4", "e4m3", "int8", "fp16"))
    for name in ("e4m3", "int8"):
        assert {("fp16", name, 2), (name, name, 1), (name, "int4", 2)} <= set(both)
    assert len(both) == len(set(both)) == 9


def test_bit_transfer_moves_layers_of_either_format(
    task: PlanningTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    batching = MicroBatching(1, 2, 2)
    uneven = Plan((Stage("new-0", ("e4m3",) * 2), Stage("old-0", ("int8",) * 10)), batching)
    monkeypatch.setattr(bit_transfer, "integer_plan", lambda *_: uneven)
    plan = bit_transfer.bit_transfer_plan(task, batching)
    assert plan is not None
    assert plan.stages[0].formats.count("int8") >= 3  # each moved off the stage with the LM head
    assert Counter(plan.layer_formats) == {"int8": 10, "e4m3": 2}


def test_measurements_of_it_are_its_own_and_without_them_it_is_priced_as_16_bits(
    with_e4m3: None,
) -> None:
    device = lab_device(formats=("fp16", "e4m3", "int8", "int4", "int3"))
    rows = [*gemm_grid(widths=(4096.0,)), *gemm_grid("int8", 8, (4096.0,))]
    untimed = fit_profile(measured(rows), device, "own", 0).profile
    assert untimed.aliases["e4m3"] == "fp16"
    own = [{**row, "latency_us": row["latency_us"] / 2} for row in gemm_grid("e4m3", 8, (4096.0,))]
    profile = fit_profile(measured([*rows, *own]), device, "own", 0).profile
    wide = {
        name: float(profile.gemm_s(name, 4096, 8192, 8192)) for name in ("fp16", "e4m3", "int8")
    }
    assert wide["e4m3"] < 0.6 * wide["fp16"]  # no limit of weight-only formats
    assert wide["int8"] == wide["fp16"]
    assert "no weight-only format is taken as faster than fp16." in profile.notes[-1]


def test_a_format_without_a_loss_is_refused_by_name(
    cluster: Cluster, task: PlanningTask, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = WeightFormat("e4m3", 8, None, 32, "E4M3", rate_fraction=2.0, symbol="y")
    monkeypatch.setitem(FORMATS, "e4m3", unknown)
    scenario, profiles = task.costs.scenario, task.costs.profiles
    for target, why in (
        (TARGET, "has no nominal loss"),
        (quality_target("0.003", measured=measured_quality(scenario.model)), "was not measured"),
    ):
        with pytest.raises(
            InputError, match=f"^formats: e4m3 {why}.*; expected some of fp16, bf16"
        ):
            planning_task(scenario, profiles, task.formats, target)
    with pytest.raises(InputError, match=r"^quality: expected a format of .*, got 'e4m3'$"):
        nominal_quality(2).plan_loss(("int8", "e4m3"))
    with pytest.raises(InputError, match="expected a weight format"):
        chosen_formats("int4,int7", load_model("opt-125m"), cluster)


def test_listings_show_it_without_what_only_reports_need(with_e4m3: None) -> None:
    listing = bundled_listing("formats")
    assert listing.rows[-1][:3] == ("e4m3", "8", "8.01")
    keys = {"name", "bits", "group_size", "group_bits", "quantizer", "bits_per_weight", "engines"}
    assert all(set(entry) == keys for entry in listing.entries)

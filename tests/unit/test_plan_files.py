"""Plan files, their certificates and checkpoints: written, read back, damaged."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmpq_sim.api.verification import verify
from llmpq_sim.core.errors import CertificateError, InputError
from llmpq_sim.core.scenario import Scenario
from llmpq_sim.io.checkpoints import (
    load_checkpoint,
    resumed_state,
    search_sha256,
    write_checkpoint,
)
from llmpq_sim.io.clusters import load_cluster
from llmpq_sim.io.files import json_text, sha256_of, write_json
from llmpq_sim.io.models import load_model
from llmpq_sim.io.plans import load_plan, outcome_to_dict, task_to_dict, with_workload
from llmpq_sim.io.profiles import cluster_profiles
from llmpq_sim.io.tasks import (
    QualityTarget,
    batch_workload,
    chosen_formats,
    planning_task,
    quality_target,
)
from llmpq_sim.latency.costs import LayerCosts
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.genetic.batches import PlanState
from llmpq_sim.search.planner import SearchOutcome, SearchSettings, search
from llmpq_sim.search.scoring import score_plan
from tests.qualities import measured_quality

Content = dict[str, Any]
SETTINGS = SearchSettings(seed=3, generations=4)
TARGET = quality_target("int4", tuple(1.0 + 0.1 * layer for layer in range(12)))


def small_task(target: QualityTarget = TARGET) -> PlanningTask:
    """Return a task that searches in about a second: three kinds of device, twelve layers."""
    model, cluster = load_model("opt-125m"), load_cluster("t4-v100-a100")
    workload = batch_workload(model, 4, 64, (8, 8, 5, 1))
    profiles = cluster_profiles(cluster, "spec", {})
    formats = chosen_formats("int4,int8,fp16", model, cluster)
    return planning_task(Scenario(model, cluster, workload), profiles, formats, target)


@pytest.fixture(scope="module")
def outcome() -> SearchOutcome:
    return search(small_task(), SETTINGS)


@pytest.fixture(scope="module")
def content(outcome: SearchOutcome) -> Content:
    return outcome_to_dict(outcome, TARGET)


@pytest.fixture
def damaged(tmp_path: Path, content: Content) -> Callable[[Callable[[Content], None]], Path]:
    def write(change: Callable[[Content], None]) -> Path:
        copy = json.loads(json_text(content))
        change(copy)
        path = tmp_path / "plan.json"
        write_json(path, copy)
        return path

    return write


def rehash(content: Content, part: str) -> None:
    content["inputs"]["sha256"][part] = sha256_of(content["inputs"][part])


def test_a_plan_file_gives_back_plan_task_and_certificate(
    tmp_path: Path, outcome: SearchOutcome, content: Content
) -> None:
    path = tmp_path / "plan.json"
    write_json(path, content)
    saved = load_plan(path, {})
    assert saved.plan == outcome.best.plan
    assert saved.task.costs.scenario == outcome.task.costs.scenario
    assert saved.task.quality == outcome.task.quality
    assert saved.certificate.entries == outcome.certificate.entries
    assert score_plan(saved.plan, saved.task).result == outcome.best.result


def test_a_plan_carries_the_profiles_that_do_not_ship(
    tmp_path: Path, outcome: SearchOutcome, content: Content
) -> None:
    costs = outcome.task.costs
    own = replace(costs.profiles["t4"], kernels="of-mine", layer_overhead_s=1e-5)
    with_own = LayerCosts(costs.scenario, {**costs.profiles, "t4": own})
    inputs = task_to_dict(replace(outcome.task, costs=with_own), TARGET)
    assert [part["device"] for part in inputs["profiles"] if "content" in part] == ["t4"]
    path = tmp_path / "plan.json"
    write_json(path, {**content, "inputs": inputs})
    assert load_plan(path, {}).task.costs.profiles == with_own.profiles


def test_a_plan_carries_the_losses_that_were_measured(tmp_path: Path) -> None:
    measured = measured_quality(load_model("opt-125m"))
    measured = replace(measured, quantizers={**measured.quantizers, "int4": "hqq"})
    target = QualityTarget(None, 0.03, None, measured)
    found = search(small_task(target), SETTINGS)
    content, path = outcome_to_dict(found, target), tmp_path / "plan.json"
    write_json(path, content)
    saved = load_plan(path, {})
    assert (saved.target, saved.task.quality) == (target, found.task.quality)
    assert saved.quantizers == {"int8": "rtn", "int4": "hqq", "int3": "rtn"}
    assert verify(saved).bound_s == pytest.approx(found.certificate.bound_s, rel=1e-9)
    content["inputs"]["quality"]["measured"]["rows"][0][2] = 0.0
    write_json(path, content)
    with pytest.raises(InputError, match=r"inputs\.quality: was changed after the plan was made"):
        load_plan(path, {})
    rehash(content, "quality")
    content["inputs"]["quality"]["measured"]["model"]["shape_sha256"] = "0" * 64
    rehash(content, "quality")
    write_json(path, content)
    with pytest.raises(InputError, match=r"inputs\.quality\.measured: was measured with opt-125m"):
        load_plan(path, {})


def test_a_plan_of_nominal_losses_says_nothing_of_measured_ones(
    tmp_path: Path, content: Content
) -> None:
    assert "measured" not in content["inputs"]["quality"]
    path = tmp_path / "plan.json"
    write_json(path, content)
    assert load_plan(path, {}).quantizers == {}


def test_a_search_is_not_resumed_with_other_losses() -> None:
    first = QualityTarget(None, 0.03, None, measured_quality(load_model("opt-125m")))
    assert first.measured is not None
    other = replace(first, measured=replace(first.measured, rows=first.measured.rows[12:]))
    task = small_task(QualityTarget(None, 0.03))
    assert search_sha256(task, first, SETTINGS) != search_sha256(task, other, SETTINGS)


def test_the_same_seed_gives_the_same_bytes(content: Content) -> None:
    again = search(small_task(), SETTINGS)
    assert json_text(outcome_to_dict(again, TARGET)) == json_text(content)


def test_a_search_resumed_from_any_generation_ends_with_the_same_bytes(
    tmp_path: Path, content: Content
) -> None:
    task, path = small_task(), tmp_path / "plan.json.checkpoint.json"
    search_hash = search_sha256(task, TARGET, SETTINGS)

    def save_second(state: PlanState) -> None:
        if state.generation == 2:
            write_checkpoint(path, state, search_hash)

    search(task, SETTINGS, on_state=save_second)
    fresh = small_task()
    resumed = search(fresh, SETTINGS, resumed=load_checkpoint(path, fresh, search_hash))
    assert json_text(outcome_to_dict(resumed, TARGET)) == json_text(content)


def test_without_a_checkpoint_there_is_nothing_to_go_on_from_and_a_note(tmp_path: Path) -> None:
    state, notes = resumed_state(tmp_path / "plan.json.checkpoint.json", small_task(), "0")
    assert state is None
    (note,) = notes
    assert note == "no checkpoint plan.json.checkpoint.json to go on from: the search began anew"


def test_a_plan_keeps_the_generations_of_its_search(
    outcome: SearchOutcome, content: Content
) -> None:
    rows = content["logbook"]
    assert [row["gen"] for row in rows] == list(range(outcome.generations + 1))
    assert sum(row["evaluations"] for row in rows) == outcome.evaluations
    assert rows[-1]["best"] == outcome.best.makespan_s


def test_a_checkpoint_of_another_search_is_refused(tmp_path: Path) -> None:
    task, path = small_task(), tmp_path / "c.json"
    search_hash = search_sha256(task, TARGET, SETTINGS)
    search(task, SETTINGS, on_state=lambda state: write_checkpoint(path, state, search_hash))
    other = search_sha256(task, TARGET, SearchSettings(seed=4))
    with pytest.raises(InputError) as error:
        load_checkpoint(path, task, other)
    assert str(error.value) == (
        "c.json: is of a search with other inputs, seed or objective; "
        "search without --resume, or give the options of that search"
    )


def test_a_certificate_is_verified_without_a_solver(
    damaged: Callable[..., Path], outcome: SearchOutcome, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("sys").modules, "scipy.optimize", None)
    verification = verify(load_plan(damaged(lambda _: None), {}))
    assert verification.bound_s == outcome.certificate.bound_s
    assert verification.entries == len(outcome.certificate.entries)


def test_a_certificate_that_states_too_much_is_refused(damaged: Callable[..., Path]) -> None:
    def raise_bound(content: Content) -> None:
        for entry in content["certificate"]:
            entry["bound_s"] *= 2

    with pytest.raises(CertificateError, match=r"states .* s, its multipliers prove .* s"):
        verify(load_plan(damaged(raise_bound), {}))


def test_a_certificate_that_leaves_out_a_micro_batching_is_refused(
    damaged: Callable[..., Path],
) -> None:
    path = damaged(lambda content: content["certificate"].pop(0))
    with pytest.raises(CertificateError, match="1 are missing, the first is prefill 1, decode 1"):
        verify(load_plan(path, {}))


def test_a_certificate_with_too_few_multipliers_is_refused(damaged: Callable[..., Path]) -> None:
    path = damaged(lambda content: content["certificate"][0]["byte_price_s"].pop())
    with pytest.raises(CertificateError, match="expected 3 multipliers of a kind, got 2"):
        verify(load_plan(path, {}))


def test_inputs_changed_by_hand_are_noticed(damaged: Callable[..., Path]) -> None:
    def more_memory(content: Content) -> None:
        content["inputs"]["cluster"]["devices"][0]["device"]["memory_bytes"] *= 2

    with pytest.raises(InputError, match=r"inputs\.cluster: was changed after the plan was made"):
        load_plan(damaged(more_memory), {})


def test_a_profile_that_is_not_the_plans_is_noticed(damaged: Callable[..., Path]) -> None:
    def other_profile(content: Content) -> None:
        content["inputs"]["profiles"][0]["sha256"] = "0" * 64
        rehash(content, "profiles")

    with pytest.raises(InputError) as error:
        load_plan(damaged(other_profile), {})
    assert str(error.value) == (
        "plan.json.inputs.profiles[0].sha256: t4/spec is not the profile the plan was made with; "
        "give that one with --profile, or make a new plan with llmpq search"
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda plan: plan["stages"][0]["formats"].pop(),
            "plan.json.plan.stages: expected 12 layers in all, got 11",
        ),
        (
            lambda plan: plan["stages"][0].update(device="t4-9"),
            "plan.json.plan.stages[0].device: expected a device of t4-v100-a100 "
            "(t4-0, t4-1, v100-32g-0, a100-40g-0), got 't4-9'",
        ),
        (
            lambda plan: plan.update(prefill_micro_batch=5),
            "plan.json.plan.prefill_micro_batch: expected 1 to 4 (the batch), got 5",
        ),
        (
            lambda plan: plan.update(groups_in_flight=99),
            "plan.json.plan.groups_in_flight: expected 1 to 1, got 99",
        ),
        (
            lambda plan: plan.update(prefill_chunk_tokens=100_000),
            "plan.json.plan.prefill_chunk_tokens: expected 1 to 64 (the prompt), got 100000; "
            "leave it out to prefill whole prompts",
        ),
        (
            lambda plan: plan.update(comment="fast"),
            "plan.json.plan: unknown keys ['comment']; known are: decode_micro_batch, "
            "groups_in_flight, prefill_chunk_tokens, prefill_micro_batch, stages",
        ),
    ],
)
def test_a_plan_edited_by_hand_is_checked(
    damaged: Callable[..., Path], change: Callable[[Content], None], message: str
) -> None:
    with pytest.raises(InputError) as error:
        load_plan(damaged(lambda content: change(content["plan"])), {})
    assert str(error.value) == message


def test_a_plan_serves_another_batch(damaged: Callable[..., Path]) -> None:
    saved = load_plan(damaged(lambda _: None), {})
    task, plan = with_workload(saved, 8, None, 2)
    result = score_plan(plan, task).result
    assert result is not None
    assert (result.finished, result.output_tokens) == (8, 16)


@pytest.mark.parametrize("name", ["makespan_s", "quality_loss", "bound_s"])
@pytest.mark.parametrize("factor", [0.5, 1.00001, 2.0])
def test_a_stated_figure_that_is_not_the_recomputed_one_is_refused(
    damaged: Callable[..., Path], name: str, factor: float
) -> None:
    def change(content: Content) -> None:
        content["predicted"][name] *= factor

    with pytest.raises(CertificateError) as caught:
        verify(load_plan(damaged(change), {}))
    assert str(caught.value).startswith(f"predicted.{name}: the file states ")
    assert "recomputed from its own inputs are " in str(caught.value)


@pytest.mark.parametrize("name", ["batch", "prompt_tokens", "output_tokens"])
@pytest.mark.parametrize("value", [0, -1])
def test_no_part_of_another_batch_is_ignored_because_it_is_0(
    damaged: Callable[..., Path], name: str, value: int
) -> None:
    saved = load_plan(damaged(lambda _: None), {})
    asked = {"batch": None, "prompt_tokens": None, "output_tokens": None} | {name: value}
    with pytest.raises(InputError, match=f"--{name.replace('_', '-')}: expected 1 to .*, got"):
        with_workload(saved, asked["batch"], asked["prompt_tokens"], asked["output_tokens"])

"""Planners of other packages have a row in the tables; broken ones are one message."""

import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from llmpq_sim.core.errors import InputError
from llmpq_sim.report.comparison import comparison_rows
from llmpq_sim.search.baselines.registry import BASELINES, BUNDLED, offered_planners
from llmpq_sim.search.baselines.simple import all_baselines
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.planner import SearchSettings, search
from tests.builders import tiny_task

Offer = Callable[[str, str], None]

HALVES = """
from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.core.plan import MicroBatching, Plan, Stage

def plans(task):
    members = task.costs.scenario.cluster.devices
    layers = task.costs.scenario.model.layers
    if len(members) < 2:
        raise InfeasibleError("halves need two devices")
    half = layers // 2
    stages = Stage(members[0].name, ("int4",) * half), Stage(members[1].name, ("int4",) * half)
    return [Plan(stages, MicroBatching(1, 1, 1))]

def boom(task):
    raise ZeroDivisionError("by nothing")

def text(task):
    return ["no plan"]

def short(task):
    members = task.costs.scenario.cluster.devices
    return [Plan((Stage(members[0].name, ("int4",)),), MicroBatching(1, 1, 1))]

def nothing(task):
    raise InfeasibleError("only on Sundays")

NUMBER = 7
"""


@pytest.fixture(name="task", scope="module")
def _task() -> PlanningTask:
    return tiny_task(budget=0.06)


@pytest.fixture(name="offer")
def _offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Offer:
    """Install a package that offers a planner: a module and its metadata in a folder."""

    def install(name: str, value: str) -> None:
        (tmp_path / "others_planner.py").write_text(HALVES, encoding="utf-8")
        metadata = tmp_path / "others-1.0.dist-info"
        metadata.mkdir()
        (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
        (metadata / "entry_points.txt").write_text(f"[{BASELINES.group}]\n{name} = {value}\n")
        monkeypatch.syspath_prepend(tmp_path)

    return install


def test_our_own_are_registered_in_the_order_of_tables() -> None:
    root = Path(__file__).resolve().parents[2]
    project = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert tuple(project["entry-points"][BASELINES.group]) == BUNDLED
    assert tuple(offered_planners()) == BUNDLED


def test_a_planner_of_another_package_has_a_row_after_ours(
    offer: Offer, task: PlanningTask
) -> None:
    offer("halves", "others_planner:plans")
    outcome = search(task, SearchSettings(generations=1))
    assert [one.name for one in outcome.baselines] == [*BUNDLED, "halves"]
    (score,) = [one.score for one in outcome.baselines if one.name == "halves"]
    assert score is not None
    assert [len(stage.formats) for stage in score.plan.stages] == [2, 2]
    rows = [row for row in comparison_rows(outcome) if row.name == "halves"]
    assert len(rows) == 1


def test_a_refusal_is_what_the_table_says(offer: Offer, task: PlanningTask) -> None:
    offer("sundays", "others_planner:nothing")
    last = all_baselines(Screen(task))[-1]
    assert (last.name, last.score, last.infeasible_reason) == ("sundays", None, "only on Sundays")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("lost", "others_planner:absent", r"^baseline 'lost' of others cannot be loaded from "),
        (
            "gone",
            "no_such_module:plans",
            r"^baseline 'gone' of others needs the module no_such_module",
        ),
        ("seven", "others_planner:NUMBER", r"expected a function at .*, got 7; repair"),
        ("uniform", "others_planner:plans", r"^baseline 'uniform' is offered twice, by "),
        ("boom", "others_planner:boom", r"^baseline 'boom' failed with ZeroDivisionError: by no"),
        ("text", "others_planner:text", r"^baseline 'text': expected a sequence of .* got a str"),
        ("short", "others_planner:short", r"^baseline 'short'"),
    ],
)
def test_a_broken_planner_is_one_message(
    offer: Offer, task: PlanningTask, name: str, value: str, message: str
) -> None:
    offer(name, value)
    with pytest.raises(InputError, match=message):
        all_baselines(Screen(task))

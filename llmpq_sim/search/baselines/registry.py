"""Planners of others, ours and of any installed package, found by entry points.

A package offers one in its ``pyproject.toml``::

    [project.entry-points."llmpq.baselines"]
    my-planner = "my_package.planning:plans"

It then has a row in the tables of every search, and its plans are among those that the genetic
search starts from.
"""

from collections.abc import Sequence
from typing import Protocol

from llmpq_sim.core.errors import InfeasibleError, InputError
from llmpq_sim.core.extensions import ExtensionPoint
from llmpq_sim.core.plan import Plan, check_plan
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.deadline import OutOfTime

BASELINES = ExtensionPoint("llmpq.baselines", "baseline")

BUNDLED = (
    "uniform",
    "memory-weighted",
    "compute-weighted",
    "pipeedge",
    "adabits",
    "bit-transfer",
    "llm-pq-ilp",
)
"""Names of our own, in the order of tables; those of others follow by name."""


class BaselinePlanner(Protocol):
    """What an entry point names: a function that plans a task as its author would."""

    def __call__(self, task: PlanningTask) -> Sequence[Plan]:
        """Return the plans it would choose from; the simulator tells which is the fastest.

        Plans that do not fit or lose too much are allowed: where no other is left, the table says
        what the nearest one lacks. The same task must give the same plans.

        Raises:
            InfeasibleError: it has no plan, and the message says why.
        """
        ...


def offered_planners() -> dict[str, BaselinePlanner]:
    """Return every installed planner by name, our own first.

    Raises:
        InputError: one cannot be loaded, two have one name, or our own are missing.
    """
    offered = BASELINES.names()
    missing = [name for name in BUNDLED if name not in offered]
    if missing:
        raise InputError(
            f"baselines: llmpq's own {', '.join(missing)} are not registered under "
            f"{BASELINES.group}; "
            "install llmpq again"
        )
    others = [name for name in offered if name not in BUNDLED]
    return {name: _loaded(name) for name in (*BUNDLED, *others)}


def plans_of(name: str, planner: BaselinePlanner, task: PlanningTask) -> Sequence[Plan]:
    """Return what a planner plans, checked where it is not our own.

    Raises:
        InfeasibleError: it has no plan.
        InputError: it failed, or returned something else than plans of the task.
        OutOfTime: the search's time limit passed.
    """
    if name in BUNDLED:
        return planner(task)
    try:
        plans = list(planner(task))
    except (InfeasibleError, OutOfTime):
        raise
    except Exception as error:
        raise InputError(
            f"baseline {name!r} failed with {type(error).__name__}: {error}; mend it, or uninstall "
            "its package"
        ) from error
    for plan in plans:
        if not isinstance(plan, Plan):
            raise InputError(
                f"baseline {name!r}: expected a sequence of llmpq_sim.core.plan.Plan, got a "
                f"{type(plan).__name__} in it"
            )
        check_plan(plan, task.costs.scenario, f"baseline {name!r}")
    return plans


def _loaded(name: str) -> BaselinePlanner:
    planner: BaselinePlanner = BASELINES.load(name)
    if not callable(planner):
        raise BASELINES.unfit(name, "a function", planner)
    return planner

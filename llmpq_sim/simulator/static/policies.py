"""Batch policies: which steps of a batch may begin when another one's token is back.

A package offers one by an entry point of the group ``llmpq.batch_policies``; `llmpq simulate
--policy NAME` then simulates under it.
"""

from typing import NamedTuple, Protocol

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.extensions import ExtensionPoint
from llmpq_sim.core.schedule import BatchSchedule
from llmpq_sim.simulator.static.step_graph import check_order

STATIC = "static"
POLICIES = ExtensionPoint("llmpq.batch_policies", "batch policy")


class StepOrder(NamedTuple):
    """Which steps may begin when.

    Steps are numbered prefill first, as ``BatchSchedule.prefill_steps`` has them: each chunk of a
    prompt is one, and only its last brings a token. Decode micro-batches follow by round, as
    ``BatchSchedule.step_of`` has them.

    Attributes:
        starts: steps 0 to ``starts - 1`` wait at the first stage, in order, at the beginning.
        successors: for each step, the later ones that may enter the first stage once its token is
            back there, in this order; each other step once, under the last one that it awaits.
    """

    starts: int
    successors: tuple[tuple[int, ...], ...]


class BatchPolicy(Protocol):
    """What an entry point names: a function that orders the steps of a wave."""

    def __call__(self, schedule: BatchSchedule) -> StepOrder:
        """Return which steps may begin when."""
        ...


def pipelined(schedule: BatchSchedule) -> StepOrder:
    """Let all prefills follow each other, and each group decode as soon as its own token is back.

    Source: LLM-PQ's static policy (arXiv:2403.01136, sec. 4.1).
    """
    step_of = schedule.step_of
    successors = [
        tuple(step_of[group, 0] for group in groups if (group, 0) in step_of)
        for groups in schedule.releases()
    ]
    for group, turn in schedule.decode_order:
        following = step_of.get((group, turn + 1))
        successors.append(() if following is None else (following,))
    return StepOrder(len(schedule.prefill_steps), tuple(successors))


def batch_policy(name: str) -> BatchPolicy:
    """Return the policy of this name.

    Raises:
        InputError: no package offers it, or it cannot be loaded.
    """
    if name == STATIC:
        return pipelined
    if name not in POLICIES.names():
        known = ", ".join((STATIC, *POLICIES.names()))
        raise InputError(f"--policy: expected one of {known}, got {name!r}")
    policy: BatchPolicy = POLICIES.load(name)
    if not callable(policy):
        raise POLICIES.unfit(name, "a function", policy)

    def checked(schedule: BatchSchedule) -> StepOrder:
        try:
            order = StepOrder(*policy(schedule))
            check_order(order.starts, order.successors)
        except Exception as error:  # whatever code of others raises
            raise InputError(
                f"{POLICIES.where(name)} failed: {type(error).__name__}: {error}; repair or "
                "uninstall the package"
            ) from error
        return order

    return checked

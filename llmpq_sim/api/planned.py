"""Plans as the functions of this package give and take them: found, saved, or in a file."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.files import write_json
from llmpq_sim.io.plans import SavedPlan, load_plan, online_to_dict, outcome_to_dict
from llmpq_sim.io.profiles import load_profile
from llmpq_sim.io.tasks import QualityTarget
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.search.scoring import PlanScore

if TYPE_CHECKING:
    from llmpq_sim.search.online.planner import OnlineOutcome
    from llmpq_sim.search.planner import SearchOutcome

Profiles = Iterable[str | Path | DeviceProfile]
"""Latency profiles of the user's own, or files that hold them."""


@dataclass(frozen=True)
class Planned:
    """What a search found, with what it takes to save the plan.

    Attributes:
        outcome: of the search, for a batch or for a trace.
        target: how much quality the plan may lose.
        notes: what the user should know of latency profiles and measured losses, in sentences.
        checkpoint: file with the state of a search that could go on, or None.
    """

    outcome: SearchOutcome | OnlineOutcome
    target: QualityTarget
    notes: tuple[str, ...] = ()
    checkpoint: Path | None = None

    def noted(self, notes: Iterable[str]) -> Planned:
        """Return it with more that the user should know, before the rest."""
        return replace(self, notes=(*notes, *self.notes))

    @property
    def batch(self) -> SearchOutcome:
        """The search of the batch; for a trace of the one that represents it."""
        from llmpq_sim.search.online.planner import OnlineOutcome  # noqa: PLC0415 - slow to load

        return self.outcome.batch if isinstance(self.outcome, OnlineOutcome) else self.outcome

    @property
    def best(self) -> PlanScore:
        """The plan found, with its memory, its quality loss, and the batch simulated."""
        return self.batch.best

    @property
    def gap_fraction(self) -> float:
        """How much faster any plan for the batch might be, as proven: 1 - throughput / bound."""
        return self.batch.gap_fraction

    @cached_property
    def content(self) -> dict[str, Any]:
        """The plan file as plain data: same search, same content."""
        from llmpq_sim.search.online.planner import OnlineOutcome  # noqa: PLC0415 - slow to load

        if isinstance(self.outcome, OnlineOutcome):
            return online_to_dict(self.outcome, self.target)
        return outcome_to_dict(self.outcome, self.target)

    @property
    def saved(self) -> SavedPlan:
        """The plan as its file would be read."""
        from llmpq_sim.search.online.planner import OnlineOutcome  # noqa: PLC0415 - slow to load

        found, batch = self.outcome, self.batch
        serving, rate = None, None
        if isinstance(found, OnlineOutcome):
            serving, rate = found.best.serving.settings, found.task.rate
        plan, task = batch.best.plan, batch.task
        seed, stated = batch.settings.seed, self.content["predicted"]
        return SavedPlan(plan, task, self.target, batch.certificate, seed, serving, stated, rate)

    def save(self, path: str | Path) -> None:
        """Write the plan file, whole or not at all, and drop the checkpoint of a search that ended.

        Raises:
            InputError: it cannot be written.
        """
        write_json(Path(path), self.content)
        if self.checkpoint is not None and self.outcome.ended == "done":
            self.checkpoint.unlink(missing_ok=True)


AnyPlan = Planned | SavedPlan | str | Path
"""A plan: what ``plan`` returned, what ``load`` did, or the name of a plan file."""


def load(plan: AnyPlan, *, profiles: Profiles = ()) -> SavedPlan:
    """Return a plan with what it was made for.

    Args:
        plan: what ``plan`` returned, or the name of a plan file.
        profiles: own latency profiles that the plan was made with, where the file has only their
            hashes.

    Raises:
        InputError: the file cannot be read or is damaged, or a profile is not the plan's.
    """
    if isinstance(plan, Planned):
        return plan.saved
    if isinstance(plan, SavedPlan):
        return plan
    return load_plan(Path(plan), own_profiles(profiles))


def own_profiles(profiles: Profiles) -> dict[str, DeviceProfile]:
    """Return the user's own profiles by kind of device.

    Raises:
        InputError: a file is no profile, or two are for the same kind.
    """
    found: dict[str, DeviceProfile] = {}
    for given in profiles:
        profile = given if isinstance(given, DeviceProfile) else load_profile(Path(given))
        if profile.device in found:
            where = profile.name if isinstance(given, DeviceProfile) else Path(given).name
            raise InputError(f"{where}: another profile given is for {profile.device} too")
        found[profile.device] = profile
    return found

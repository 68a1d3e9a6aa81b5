"""Bound over all micro-batchings: the certificate of a plan file."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Annotated

from llmpq_sim.core.errors import CertificateError
from llmpq_sim.core.plan import MicroBatching
from llmpq_sim.core.records import Finite, Key, Place
from llmpq_sim.search.bound.certificate import (
    CellMultipliers,
    CellTree,
    Multipliers,
    Split,
    bound_s,
    proof_bound_s,
    whole_cell,
)
from llmpq_sim.search.bound.least import least_makespan_s
from llmpq_sim.search.bound.loads import LoadTable
from llmpq_sim.search.bound.problem import Problem
from llmpq_sim.search.bound.refinement import refine
from llmpq_sim.search.bound.relaxation import relax
from llmpq_sim.search.bound.schedule_terms import EMBEDDING
from llmpq_sim.search.bound.screening import Screen
from llmpq_sim.search.deadline import OutOfTime, check_time

TARGET_GAP = 0.005
"""Relative gap at which the bound is tight enough."""

CELLS, CELLS_OF_UNLIKE = 400, 60
"""Cells bounded for one micro-batching, at most, where layers are all alike and where not."""

ALIKE = 3
"""Items where layers are all alike: these, the embedding and the LM head."""


@dataclass(frozen=True)
class CellProof:
    """A tree of cells that proves nothing faster than its target, or than its weakest leaf."""

    target_s: float
    tree: Annotated[CellTree, Key("proof")]


NO_MULTIPLIERS = Multipliers((), 0.0, ())
"""What an entry has that states no more than `least_makespan_s`."""


@dataclass(frozen=True)
class BoundEntry:
    """What is proven for one micro-batching.

    Attributes:
        bound_s: makespan that no plan with this micro-batching is below.
        multipliers: proof by the linear relaxation, or NO_MULTIPLIERS.
        cells: a stronger proof by cells, where one was needed.
    """

    bound_s: Finite
    multipliers: Annotated[Multipliers, Place.INLINE]
    cells: Annotated[CellProof | None, Place.OPTIONAL] = None


@dataclass(frozen=True)
class Certificate:
    """What is proven for every micro-batching of the grid.

    Attributes:
        entries: by micro-batching.
        feasible: the micro-batchings in which a plan may exist.
    """

    entries: dict[MicroBatching, BoundEntry]
    feasible: frozenset[MicroBatching] = frozenset()

    @property
    def bound_s(self) -> float:
        """Makespan that no plan is below, whatever its micro-batching."""
        return min(entry.bound_s for entry in self.entries.values())

    @property
    def unproven(self) -> int:
        """How many micro-batchings time was too short for, which state `least_makespan_s`."""
        return sum(entry.multipliers == NO_MULTIPLIERS for entry in self.entries.values())

    def promising(self) -> list[MicroBatching]:
        """Return the micro-batchings in which plans may exist, the lowest bound first."""
        return sorted(
            self.feasible, key=lambda batching: (self.entries[batching].bound_s, str(batching))
        )


def first_certificate(
    screen: Screen, grid: list[MicroBatching], on_progress: Callable[[int, int], None]
) -> Certificate:
    """Return the bounds of the linear relaxations of a grid.

    Large micro-batches, which are most often fast, come first: where a time limit ends it, the
    others are bounded by what is true of any plan, and count as not feasible.
    """
    entries, feasible = {}, set()
    with suppress(OutOfTime):
        for number, batching in enumerate(sorted(grid, key=_largest_first)):
            on_progress(number, len(grid))
            check_time()
            problem = screen.problem(batching)
            relaxed = relax(problem)
            entries[batching] = BoundEntry(relaxed.bound_s, relaxed.multipliers)
            if relaxed.is_feasible and problem.holds_whole_layers:
                feasible.add(batching)
    for batching in grid:
        if batching not in entries:
            entries[batching] = BoundEntry(least_makespan_s(screen.task, batching), NO_MULTIPLIERS)
    return Certificate({batching: entries[batching] for batching in grid}, frozenset(feasible))


def _largest_first(batching: MicroBatching) -> tuple[int, ...]:
    chunk_tokens = batching.chunk_tokens or 0
    whole_first = bool(chunk_tokens), -chunk_tokens
    return -batching.decode, -batching.prefill, -batching.groups_in_flight, *whole_first


def near(makespan_s: float) -> float:
    """Return the bound that is tight enough for a plan with this makespan."""
    return makespan_s / (1.0 + TARGET_GAP)


def tighten(
    certificate: Certificate,
    screen: Screen,
    makespan_s: float,
    on_progress: Callable[[int, int], None],
) -> None:
    """Bring the bound of a certificate near to a plan's makespan, where cells can show it.

    Only micro-batchings whose bound is too low are refined, the lowest first.

    Raises:
        OutOfTime: the time limit passed; what was refined until then is in the certificate.
    """
    entries = certificate.entries
    loose = sorted(
        (batching for batching, entry in entries.items() if entry.bound_s < near(makespan_s)),
        key=lambda batching: entries[batching].bound_s,
    )
    for number, batching in enumerate(loose):
        on_progress(number, len(loose))
        check_time()
        entries[batching] = refined_entry(entries[batching], screen.problem(batching), makespan_s)


def refined_entry(entry: BoundEntry, problem: Problem, makespan_s: float) -> BoundEntry:
    """Return an entry with a proof by cells, if that proves more, up to near a makespan."""
    cells = CELLS if len(problem.items) == ALIKE else CELLS_OF_UNLIKE
    proof = refine(problem, near(makespan_s), cells)
    if proof is None or proof.bound_s <= entry.bound_s:
        return entry
    return replace(entry, bound_s=proof.bound_s, cells=CellProof(proof.target_s, proof.tree))


def check_certificate(certificate: Certificate, screen: Screen, grid: list[MicroBatching]) -> float:
    """Return the bound that a certificate proves, by arithmetic alone.

    Raises:
        CertificateError: it leaves out a micro-batching of the grid, or one of its entries states
            more than its multipliers prove.
    """
    missing = [batching for batching in grid if batching not in certificate.entries]
    if missing:
        raise CertificateError(
            f"certificate: expected an entry for every micro-batching, {len(missing)} are missing, "
            f"the first is {_name(missing[0])}"
        )
    return min(_proven_s(certificate.entries[batching], screen, batching) for batching in grid)


def _proven_s(entry: BoundEntry, screen: Screen, batching: MicroBatching) -> float:
    if entry.multipliers == NO_MULTIPLIERS and entry.cells is None:
        return _checked_s(entry, least_makespan_s(screen.task, batching), batching)
    problem = screen.problem(batching)
    _check_lengths(entry, problem, _name(batching))
    proven_s = bound_s(problem, entry.multipliers)
    if entry.cells is not None:
        cell = whole_cell(entry.cells.target_s)
        proven_s = max(proven_s, proof_bound_s(LoadTable(problem), entry.cells.tree, cell))
    return _checked_s(entry, proven_s, batching)


def _checked_s(entry: BoundEntry, proven_s: float, batching: MicroBatching) -> float:
    """Return what is proven, if the entry states no more."""
    if not entry.bound_s <= proven_s * (1 + 1e-9):
        raise CertificateError(
            f"certificate: {_name(batching)} states {entry.bound_s:.6g} s, its multipliers prove "
            f"{proven_s:.6g} s"
        )
    return proven_s


def _check_lengths(entry: BoundEntry, problem: Problem, name: str) -> None:
    """Check that there is a multiplier for every term of the problem."""
    places = len(problem.places)
    lengths = [(len(entry.multipliers.waves), len(problem.waves))]
    lengths.append((len(entry.multipliers.byte_price_s), places))
    for wave in entry.multipliers.waves:
        lengths += [(len(wave.prefill), places), (len(wave.decode), places)]
    if entry.multipliers.run_price_s:
        kinds = len(problem.block_bytes) + EMBEDDING
        lengths.append((len(entry.multipliers.run_price_s), places * kinds))
    for leaf in _leaves(entry.cells.tree) if entry.cells else ():
        lengths += _leaf_lengths(leaf, problem)
    for found, expected in lengths:
        if found != expected:
            raise CertificateError(
                f"certificate: {name} expected {expected} multipliers of a kind, got {found}"
            )


def _leaf_lengths(leaf: CellMultipliers, problem: Problem) -> list[tuple[int, int]]:
    """Return how many multipliers of each kind a leaf has, and how many it should."""
    places, kinds = len(problem.places), len(problem.block_bytes) + EMBEDDING
    differ = len(problem.items) != ALIKE
    return [
        (len(leaf.prefill), places + 1),
        (len(leaf.decode), places + 1),
        (len(leaf.format_values_s), places * len(problem.formats) * differ),
        (len(leaf.kind_values_s), places * kinds * differ),
    ]


def _leaves(tree: Split | CellMultipliers) -> Iterator[CellMultipliers]:
    if isinstance(tree, Split):
        yield from _leaves(tree.below)
        yield from _leaves(tree.above)
    else:
        yield tree


def _name(batching: MicroBatching) -> str:
    chunks = f" in chunks of {batching.chunk_tokens}" if batching.chunk_tokens else ""
    return (
        f"prefill {batching.prefill}{chunks}, decode {batching.decode}, "
        f"groups {batching.groups_in_flight}"
    )

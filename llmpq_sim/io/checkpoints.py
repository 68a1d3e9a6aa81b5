"""Checkpoints of a search, saved after each generation, with resume."""

from pathlib import Path
from typing import Any

import numpy as np

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, check_header
from llmpq_sim.core.plan import Plan, check_plan
from llmpq_sim.core.records import from_dict, to_dict
from llmpq_sim.io.files import read_json, sha256_of, write_json
from llmpq_sim.io.plans import logbook_from_dict, task_to_dict
from llmpq_sim.io.tasks import QualityTarget
from llmpq_sim.search.bound.problem import PlanningTask
from llmpq_sim.search.genetic.batches import PlanIndividual, PlanState, SimulatedFront
from llmpq_sim.search.planner import SearchSettings

SCHEMA = "llmpq/checkpoint"
VERSION = 2


def search_sha256(task: PlanningTask, target: QualityTarget, settings: SearchSettings) -> str:
    """Return the hash of what a search's course depends on: its inputs, seed and objective."""
    decided = {"seed": settings.seed, "wants_front": settings.wants_front}
    return sha256_of({**task_to_dict(task, target)["sha256"], **decided})


def write_checkpoint(path: Path, state: PlanState, search_hash: str) -> None:
    """Write the state of a search.

    Raises:
        InputError: the file cannot be written.
    """
    content = {
        "schema": SCHEMA,
        "version": VERSION,
        "search_sha256": search_hash,
        "generation": state.generation,
        "stalled": state.stalled,
        "evaluations": state.evaluations,
        "rng": _rng_content(state.rng),
        "population": [_individual_content(member) for member in state.population],
        "front": [_individual_content(member) for member in state.hall],
        "logbook": list(state.logbook),
    }
    write_json(path, content)


def resumed_state(
    path: Path, task: PlanningTask, search_hash: str
) -> tuple[PlanState | None, list[str]]:
    """Return the state to go on from; where there is none, None and a note that says so.

    Raises:
        InputError: as `load_checkpoint`.
    """
    if not path.exists():
        return None, [f"no checkpoint {path.name} to go on from: the search began anew"]
    return load_checkpoint(path, task, search_hash), []


def load_checkpoint(path: Path, task: PlanningTask, search_hash: str) -> PlanState:
    """Return the state that a checkpoint of the same search holds.

    Raises:
        InputError: the file is damaged, or of a search with other inputs, seed or objective.
    """
    with Fields(read_json(path), path.name) as fields:
        check_header(fields, SCHEMA, VERSION)
        if fields.text("search_sha256") != search_hash:
            raise InputError(
                f"{path.name}: is of a search with other inputs, seed or objective; "
                "search without --resume, or give the options of that search"
            )
        state = PlanState(
            generation=fields.integer("generation", least=0),
            population=_individuals(fields, "population", task),
            hall=SimulatedFront(),
            rng=_rng(fields.fields("rng")),
            stalled=fields.integer("stalled", least=0),
            evaluations=fields.integer("evaluations", least=0),
        )
        state.hall.update(_individuals(fields, "front", task))
        for row in logbook_from_dict(fields):
            state.logbook.record(**row)
    if not state.population or not state.hall:
        raise InputError(f"{path.name}: expected plans in population and front, got none")
    return state


def _individual_content(individual: PlanIndividual) -> dict[str, Any]:
    return {
        "plan": to_dict(individual.plan),
        "makespan_s": individual.makespan_s,
        "loss": individual.loss,
        "is_simulated": individual.is_simulated,
    }


def _individuals(fields: Fields, name: str, task: PlanningTask) -> list[PlanIndividual]:
    individuals = []
    for each in fields.each(name):
        with each:
            plan = from_dict(Plan, each.fields("plan"))
            check_plan(plan, task.costs.scenario, f"{each.where}.plan")
            individual = PlanIndividual(plan)
            makespan_s, loss = each.number("makespan_s"), each.number("loss", positive=False)
            individual.fitness.values = (makespan_s, loss)
            individual.is_simulated = each.flag("is_simulated")
            individuals.append(individual)
    return individuals


def _rng_content(rng: np.random.Generator) -> dict[str, Any]:
    """Return the generator's state; its integers exceed what JSON readers keep, so as text."""
    state = rng.bit_generator.state
    return {
        "state": str(state["state"]["state"]),
        "increment": str(state["state"]["inc"]),
        "has_uint32": state["has_uint32"],
        "uinteger": state["uinteger"],
    }


def _rng(fields: Fields) -> np.random.Generator:
    with fields:
        numbers = {name: fields.text(name) for name in ("state", "increment")}
        for name, text in numbers.items():
            if not (text.isascii() and text.isdigit() and len(text) <= 39):
                raise InputError(f"{fields.where}.{name}: expected digits, got {text[:40]!r}")
        bits = np.random.PCG64()
        bits.state = {
            "bit_generator": "PCG64",
            "state": {
                "state": int(numbers["state"]) % 2**128,
                "inc": int(numbers["increment"]) % 2**128,
            },
            "has_uint32": fields.integer("has_uint32", least=0) % 2,
            "uinteger": fields.integer("uinteger", least=0) % 2**32,
        }
    return np.random.Generator(bits)

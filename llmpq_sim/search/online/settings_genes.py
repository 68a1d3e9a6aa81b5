"""Genes of a scheduler's settings: what they may be, and how they are changed and mixed.

Token budget and sequence limit are whole numbers on a logarithmic scale: what doubles a small one
matters as much as what doubles a large one.
"""

from collections.abc import Iterator
from dataclasses import replace
from math import exp, log
from typing import Any

from numpy.random import Generator

from llmpq_sim.simulator.continuous.settings import Admission, ContinuousSettings

LEAST_BUDGET_TOKENS, MOST_BUDGET_TOKENS = 8, 16_384
LEAST_SEQUENCES, MOST_SEQUENCES = 1, 1024

STEP = 0.4
"""Standard deviation of the natural logarithm by which a step changes a number: half of the steps
stay within a factor of 1.3."""

REDRAWN_SHARE = 0.15
"""Share of changes to a number that draw it anew from its whole range."""


GENES = (
    "token_budget",
    "token_budget",
    "sequence_limit",
    "sequence_limit",
    "both limits",
    "chunk_tokens",
    "chunked_prefill",
    "admission",
    "batches_in_flight",
)
"""What a mutation changes, each as often as it is listed. Where every sequence decodes in each
batch, budget and limit belong together, and both are scaled alike."""


def bounded(draft: ContinuousSettings, **changes: Any) -> ContinuousSettings:
    """Return the settings with changes, each limit moved to where the others allow it.

    Prompts stay whole only while the budget holds the longest context.
    """
    values = vars(draft) | changes
    budget = _within(values["token_budget"], LEAST_BUDGET_TOKENS, MOST_BUDGET_TOKENS)
    whole = not values["chunked_prefill"] and budget >= draft.longest_context_tokens
    chunk = values["chunk_tokens"]
    if whole or (chunk is not None and chunk >= budget):
        chunk = None
    limit = _within(values["sequence_limit"], LEAST_SEQUENCES, min(MOST_SEQUENCES, budget))
    return replace(
        draft,
        token_budget=budget,
        sequence_limit=limit,
        chunked_prefill=not whole,
        chunk_tokens=chunk,
        admission=values["admission"],
        batches_in_flight=values["batches_in_flight"],
    )


def fitted(settings: ContinuousSettings, stages: int) -> ContinuousSettings:
    """Return the settings with no more batches under way than so many stages allow."""
    most = settings.batches_in_flight
    if most is None or most < stages:
        return settings
    return replace(settings, batches_in_flight=None)


def other_admission(settings: ContinuousSettings) -> Admission:
    """Return the way to admit requests that is not that of the settings."""
    return "evict" if settings.admission == "no-evict" else "no-evict"


def mutated(settings: ContinuousSettings, stages: int, rng: Generator) -> ContinuousSettings:
    """Return the settings with another value of one or two genes."""
    for _ in range(int(rng.integers(1, 3))):
        settings = _changed(settings, GENES[int(rng.integers(len(GENES)))], stages, rng)
    return settings


def crossed(
    first: ContinuousSettings, second: ContinuousSettings, rng: Generator
) -> ContinuousSettings:
    """Return settings with each gene of one of two parents; both limits are of the same one."""
    limits = _either(first, second, rng)
    return bounded(
        first,
        token_budget=limits.token_budget,
        sequence_limit=limits.sequence_limit,
        chunked_prefill=_either(first, second, rng).chunked_prefill,
        chunk_tokens=_either(first, second, rng).chunk_tokens,
        admission=_either(first, second, rng).admission,
        batches_in_flight=_either(first, second, rng).batches_in_flight,
    )


def grid(settings: ContinuousSettings) -> Iterator[ContinuousSettings]:
    """Yield the settings with every budget and limit that are powers of two, the largest last."""
    for budget in powers_of_two(LEAST_BUDGET_TOKENS, MOST_BUDGET_TOKENS // 2):
        for limit in powers_of_two(4, min(MOST_SEQUENCES, budget)):
            yield bounded(settings, token_budget=budget, sequence_limit=limit)


def powers_of_two(least: int, most: int) -> list[int]:
    """Return the powers of two of a range."""
    return [2**power for power in range(most.bit_length()) if least <= 2**power <= most]


def _changed(
    settings: ContinuousSettings, gene: str, stages: int, rng: Generator
) -> ContinuousSettings:
    """Return the settings with another value of a gene."""
    of_numbers = _changed_numbers(settings, gene, rng)
    changes = _changed_choice(settings, gene, stages, rng) if of_numbers is None else of_numbers
    return fitted(bounded(settings, **changes), stages)


def _changed_numbers(
    settings: ContinuousSettings, gene: str, rng: Generator
) -> dict[str, int] | None:
    """Return other limits, or None where the gene is none of them."""
    budget, limit = settings.token_budget, settings.sequence_limit
    match gene:
        case "token_budget":
            return {gene: _step(budget, LEAST_BUDGET_TOKENS, MOST_BUDGET_TOKENS, rng)}
        case "sequence_limit":
            return {gene: _step(limit, LEAST_SEQUENCES, min(MOST_SEQUENCES, budget), rng)}
        case "both limits":
            scale = exp(STEP * rng.standard_normal())
            return {
                "token_budget": round(budget * scale),
                "sequence_limit": round(limit * scale),
            }
        case _:
            return None


def _changed_choice(
    settings: ContinuousSettings, gene: str, stages: int, rng: Generator
) -> dict[str, Any]:
    """Return another choice of how prompts are cut, requests admitted, batches kept under way."""
    match gene:
        case "chunk_tokens" if settings.chunk_tokens is not None and rng.random() < 0.5:
            return {gene: None}
        case "chunk_tokens":
            most = settings.token_budget
            return {gene: _step(settings.most_chunk_tokens, LEAST_BUDGET_TOKENS, most, rng)}
        case "chunked_prefill" if settings.chunked_prefill:
            whole = max(settings.token_budget, settings.longest_context_tokens)
            return {gene: False, "token_budget": whole}
        case "chunked_prefill":
            return {gene: True}
        case "admission":
            return {gene: other_admission(settings)}
        case _:
            return {"batches_in_flight": int(rng.integers(1, stages + 1))}


def _step(value: int, least: int, most: int, rng: Generator) -> int:
    """Return another whole number of a range: near on a logarithmic scale, or anywhere on it."""
    if rng.random() < REDRAWN_SHARE:
        return round(exp(rng.uniform(log(least), log(most))))
    stepped = round(value * exp(STEP * rng.standard_normal()))
    if stepped == value:
        stepped += 1 if rng.random() < 0.5 else -1
    return _within(stepped, least, most)


def _within(value: int, least: int, most: int) -> int:
    return min(max(value, least), most)


def _either(
    first: ContinuousSettings, second: ContinuousSettings, rng: Generator
) -> ContinuousSettings:
    return first if rng.random() < 0.5 else second

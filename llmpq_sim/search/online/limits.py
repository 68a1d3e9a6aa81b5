"""Limits of continuous batching that a search considers."""

from collections.abc import Iterator
from dataclasses import replace

from llmpq_sim.simulator.continuous.settings import ContinuousSettings

TOKEN_BUDGETS = tuple(2**power for power in range(8, 14))
SEQUENCE_LIMITS = tuple(2**power for power in range(3, 10))

FIRST_LIMITS = ((256, 64), (512, 256), (1024, 128), (4096, 256))
"""Token budgets and sequence limits that a search tries beside the defaults."""


def is_on_grid(settings: ContinuousSettings) -> bool:
    """Return whether a search may consider these settings."""
    return (
        settings.token_budget in TOKEN_BUDGETS
        and settings.sequence_limit in SEQUENCE_LIMITS
        and _is_possible(settings.token_budget, settings.sequence_limit, settings)
    )


def first_limits(defaults: ContinuousSettings) -> list[ContinuousSettings]:
    """Return the defaults and some settings on the grid, alike in everything else."""
    others = [_with(defaults, *pair) for pair in FIRST_LIMITS if _is_possible(*pair, defaults)]
    return list(dict.fromkeys([defaults, *others]))


def neighbours(settings: ContinuousSettings) -> list[ContinuousSettings]:
    """Return the settings of the grid that are one step away: a limit, or how prompts are cut."""
    budget, limit = settings.token_budget, settings.sequence_limit
    found = [
        _with(settings, *pair)
        for pair in (
            *((other, limit) for other in _beside(TOKEN_BUDGETS, budget)),
            *((budget, other) for other in _beside(SEQUENCE_LIMITS, limit)),
        )
        if _is_possible(*pair, settings)
    ]
    if not settings.chunked_prefill or budget >= settings.longest_context_tokens:
        found.append(replace(settings, chunked_prefill=not settings.chunked_prefill))
    return found


def _beside(values: tuple[int, ...], value: int) -> Iterator[int]:
    """Yield the next smaller and the next larger one."""
    yield from [other for other in values if other < value][-1:]
    yield from [other for other in values if other > value][:1]


def _with(settings: ContinuousSettings, budget: int, limit: int) -> ContinuousSettings:
    return replace(settings, token_budget=budget, sequence_limit=limit)


def _is_possible(budget: int, limit: int, settings: ContinuousSettings) -> bool:
    return limit <= budget and (
        settings.chunked_prefill or budget >= settings.longest_context_tokens
    )

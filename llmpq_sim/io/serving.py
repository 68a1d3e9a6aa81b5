"""How is a plan served by continuous batching? The settings: by default, and as plain data."""

from typing import Any

from llmpq_sim.core.fields import Fields
from llmpq_sim.core.limits import MOST_BUDGET_TOKENS, MOST_SEQUENCES, check_count
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.simulator.continuous.settings import ContinuousSettings

TOKEN_BUDGET = 2048
SEQUENCE_LIMIT = 256
"""vLLM's long-standing defaults for online serving."""


def default_settings(
    model: ModelSpec,
    workload: TraceWorkload,
    token_budget: int | None = None,
    sequence_limit: int | None = None,
    chunked_prefill: bool = True,
    prefix_caching: bool | None = None,
) -> ContinuousSettings:
    """Return settings for a workload, the given ones and defaults for the others.

    Prefixes are cached where the workload says which are shared. Whole prompts need a budget of
    the longest context; the sequence limit is at most the budget.

    Raises:
        InputError: the limits contradict each other, or are beyond any service.
    """
    budget = TOKEN_BUDGET if chunked_prefill else model.max_positions
    if token_budget is not None:
        budget = token_budget
    limit = min(SEQUENCE_LIMIT, budget) if sequence_limit is None else sequence_limit
    _check_limits(budget, limit, "--token-budget", "--sequence-limit")
    caching = workload.prefix_blocks is not None if prefix_caching is None else prefix_caching
    return ContinuousSettings(
        token_budget=budget,
        sequence_limit=limit,
        longest_context_tokens=model.max_positions,
        chunked_prefill=chunked_prefill,
        prefix_caching=caching,
    )


def settings_to_content(settings: ContinuousSettings) -> dict[str, Any]:
    """Return settings as plain data."""
    return {
        "token_budget": settings.token_budget,
        "sequence_limit": settings.sequence_limit,
        "longest_context_tokens": settings.longest_context_tokens,
        "chunked_prefill": settings.chunked_prefill,
        "block_tokens": settings.block_tokens,
        "prefix_caching": settings.prefix_caching,
        "schedules_ahead": settings.schedules_ahead,
    }


def settings_from_fields(fields: Fields) -> ContinuousSettings:
    """Return the settings that `settings_to_content` wrote.

    Raises:
        InputError: a value is missing, unknown or cannot be.
    """
    with fields:
        budget, limit = fields.integer("token_budget"), fields.integer("sequence_limit")
        _check_limits(
            budget, limit, f"{fields.where}.token_budget", f"{fields.where}.sequence_limit"
        )
        return ContinuousSettings(
            token_budget=budget,
            sequence_limit=limit,
            longest_context_tokens=fields.integer("longest_context_tokens"),
            chunked_prefill=fields.flag("chunked_prefill"),
            block_tokens=fields.integer("block_tokens"),
            prefix_caching=fields.flag("prefix_caching"),
            schedules_ahead=fields.flag("schedules_ahead"),
        )


def _check_limits(budget: int, limit: int, budget_name: str, limit_name: str) -> None:
    """Raise InputError for limits beyond any service: times are tabulated up to them."""
    check_count(budget_name, budget, MOST_BUDGET_TOKENS, "tokens")
    check_count(limit_name, limit, MOST_SEQUENCES, "sequences")

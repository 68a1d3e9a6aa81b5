"""Settings of continuous batching, by default and as plain data, and objectives of its users."""

from dataclasses import dataclass
from typing import Annotated, Literal

from llmpq_sim.core.caches import keeps_all_tokens
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.limits import MOST_BUDGET_TOKENS, MOST_SEQUENCES, check_count
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.records import Place
from llmpq_sim.core.trace import TraceWorkload

TOKEN_BUDGET = 2048
SEQUENCE_LIMIT = 256
"""vLLM's long-standing defaults for online serving."""

Admission = Literal["evict", "no-evict"]
"""When a waiting request is admitted: where its first tokens have blocks, or its last as well."""


@dataclass(frozen=True)
class ContinuousSettings:
    """Limits and choices of iteration-level batching, with the names vLLM gives them in brackets.

    Attributes:
        token_budget: most tokens of one batch (``max_num_batched_tokens``).
        sequence_limit: most sequences admitted at once (``max_num_seqs``).
        longest_context_tokens: most tokens of prompt and output (``max_model_len``).
        chunked_prefill: True cuts prompts to fit the budget beside decodes, which come first.
            False schedules prompts whole and before decodes, in batches of their own.
        block_tokens: tokens of one block of KV cache (``block_size``).
        prefix_caching: whether blocks of equal leading prompts are shared.
        schedules_ahead: True forms a batch as soon as fewer are in flight than there are stages,
            as vLLM does; the batch then waits before stage 0. False forms it when stage 0 can
            take it, so that all that has returned by then goes along.
        admission: "evict" admits a request where its next prompt tokens have blocks; one that
            later lacks a block takes those of another, which is computed anew (vLLM).
            "no-evict" admits it only where its whole prompt and output has blocks beside all that
            those admitted will still need, so that none ever loses its own (TensorRT-LLM's
            ``GUARANTEED_NO_EVICT``).
        chunk_tokens: most prompt tokens of one request in one batch; None for as many as the
            budget leaves (``long_prefill_token_threshold``).
        batches_in_flight: most batches under way at once, at most as many as stages; None for as
            many as stages.

    Raises:
        InputError: the limits contradict each other.
    """

    token_budget: int
    sequence_limit: int
    longest_context_tokens: int
    chunked_prefill: bool = True
    block_tokens: int = 16
    prefix_caching: bool = False
    schedules_ahead: bool = True
    admission: Annotated[Admission, Place.OPTIONAL] = "evict"
    chunk_tokens: Annotated[int | None, Place.OPTIONAL] = None
    batches_in_flight: Annotated[int | None, Place.OPTIONAL] = None

    def __post_init__(self) -> None:
        for name in (
            "token_budget",
            "sequence_limit",
            "block_tokens",
            "chunk_tokens",
            "batches_in_flight",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name}: expected at least 1, got {value}")
        if self.longest_context_tokens < 2:
            raise InputError(
                "longest_context_tokens: expected at least 2 (a prompt and an output token), "
                f"got {self.longest_context_tokens}"
            )
        if self.sequence_limit > self.token_budget:
            raise InputError(
                f"sequence_limit: expected at most the token budget of {self.token_budget}, so "
                f"that every sequence can decode in one batch, got {self.sequence_limit}"
            )
        if not self.chunked_prefill and self.token_budget < self.longest_context_tokens:
            raise InputError(
                f"token_budget: expected at least the longest context of "
                f"{self.longest_context_tokens} tokens where prompts are not cut, "
                f"got {self.token_budget}; raise it or use chunked prefill"
            )
        if not self.chunked_prefill and self.chunk_tokens is not None:
            raise InputError(
                f"chunk_tokens: expected none where prompts are not cut, got {self.chunk_tokens}; "
                "leave it out or use chunked prefill"
            )

    @property
    def most_chunk_tokens(self) -> int:
        """Most prompt tokens of one request in one batch."""
        return self.token_budget if self.chunk_tokens is None else self.chunk_tokens

    def most_in_flight(self, stages: int) -> int:
        """Return how many batches may be under way at once in so many stages.

        Raises:
            InputError: more are asked for than there are stages.
        """
        most = self.batches_in_flight
        if most is not None and most > stages:
            raise InputError(
                f"batches_in_flight: expected at most {stages}, the stages of the plan, as each "
                f"computes one batch at a time, got {most}"
            )
        return stages if most is None else most

    def blocks(self, tokens: int) -> int:
        """Return the blocks that hold so many tokens."""
        return -(-tokens // self.block_tokens)


@dataclass(frozen=True)
class ServiceObjectives:
    """What a request must meet to count as good; None for no limit (DistServe's goodput).

    Source: Zhong et al., DistServe, arXiv:2401.09670, sec. 2.
    """

    ttft_s: float | None = None
    tpot_s: float | None = None
    latency_s: float | None = None


def default_settings(
    model: ModelSpec,
    workload: TraceWorkload,
    token_budget: int | None = None,
    sequence_limit: int | None = None,
    chunked_prefill: bool = True,
    prefix_caching: bool | None = None,
    *,
    admission: Admission = "evict",
    chunk_tokens: int | None = None,
    batches_in_flight: int | None = None,
) -> ContinuousSettings:
    """Return settings for a workload, the given ones and defaults for the others.

    Prefixes are cached where the workload says which are shared and layers keep every token. Whole
    prompts need a budget of the longest context; the sequence limit is at most the budget.

    Raises:
        InputError: the limits contradict each other, or are beyond any service.
    """
    budget = TOKEN_BUDGET if chunked_prefill else model.max_positions
    if token_budget is not None:
        budget = token_budget
    limit = min(SEQUENCE_LIMIT, budget) if sequence_limit is None else sequence_limit
    _check_limits(budget, limit, "--token-budget", "--sequence-limit")
    if chunk_tokens is not None:
        check_count("--chunk-tokens", chunk_tokens, MOST_BUDGET_TOKENS, "tokens")
    caching = prefix_caching
    if caching is None:
        keeps_all = keeps_all_tokens(model, model.max_positions)
        caching = workload.prefix_blocks is not None and keeps_all
    return ContinuousSettings(
        token_budget=budget,
        sequence_limit=limit,
        longest_context_tokens=model.max_positions,
        chunked_prefill=chunked_prefill,
        prefix_caching=caching,
        admission=admission,
        chunk_tokens=chunk_tokens,
        batches_in_flight=batches_in_flight,
    )


def _check_limits(budget: int, limit: int, budget_name: str, limit_name: str) -> None:
    """Raise InputError for limits beyond any service: times are tabulated up to them."""
    check_count(budget_name, budget, MOST_BUDGET_TOKENS, "tokens")
    check_count(limit_name, limit, MOST_SEQUENCES, "sequences")


def uncached(model: ModelSpec, workload: TraceWorkload) -> tuple[str, ...]:
    """Return a sentence where shared prefixes are computed anew, as layers forget them."""
    if workload.prefix_blocks is None or keeps_all_tokens(model, model.max_positions):
        return ()
    return ("prefixes are not cached: windows and recurrent states do not outlast them",)

"""Sums over a trace's requests: the least work that any service of them does.

Tokens count as often as every service computes them: those of a prefix block that several prompts
share, once. Attention counts where no cached block can shorten it: that of prompts that share none,
and that of decodes where none are cached. For a request that lost its blocks may find them again,
and then computes the token that it would have decoded as the end of a prompt.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.records import Natural
from llmpq_sim.core.trace import IntArray, TraceWorkload

BoolArray = NDArray[np.bool_]


@dataclass(frozen=True)
class RateWorkload:
    """What a limit on the rate depends on.

    Attributes:
        requests: how many there are.
        prompt_tokens: of all prompts, the same prefix block once.
        decode_steps: tokens generated after the first ones.
        held_tokens: over all generated tokens, the tokens whose keys and values the request holds
            for itself at that time.
        attended_prompts: tokens of the prompts that attend to all of themselves.
        attended_squares: the squares of their lengths, summed.
        attending_steps: decode steps that no cached block can spare attention.
        attended_contexts: the tokens these steps attend to.
        shortest_context, longest_context: of one such step; 1 where there are none.
        longest_prompt: of the prompts that attend; 1 where there are none.
        longest_request_tokens: prompt and output of the longest request.
    """

    requests: int
    prompt_tokens: int
    decode_steps: Natural
    held_tokens: Natural
    attended_prompts: Natural
    attended_squares: Natural
    attending_steps: Natural
    attended_contexts: Natural
    shortest_context: int
    longest_context: int
    longest_prompt: int
    longest_request_tokens: int

    @property
    def sampled_tokens(self) -> int:
        """Tokens generated: a decode step each but for the first of a request."""
        return self.requests + self.decode_steps

    @property
    def computed_tokens(self) -> int:
        """Tokens that pass the matrix products at least."""
        return self.prompt_tokens + self.decode_steps


def rate_workload(
    workload: TraceWorkload, most_tokens: int, *, is_cached: bool = False
) -> RateWorkload | None:
    """Return the sums over the requests of at most so many tokens; None where there are none.

    Args:
        workload: the requests; their arrivals play no part.
        most_tokens: prompt and output of the longest request that can be served at all.
        is_cached: whether blocks of a request that lost them may be found again though the workload
            names no prefixes.
    """
    served = workload.context_tokens <= most_tokens
    if not served.any():
        return None
    prompts, outputs = workload.prompt_tokens[served], workload.output_tokens[served]
    shared, spared = _prefixes(workload, served)
    own, steps = prompts - shared, outputs - 1
    uncached = shared == 0
    attending = np.full(len(own), workload.prefix_blocks is None and not is_cached)
    contexts = steps * prompts + steps * outputs // 2
    decoding = attending & (steps > 0)
    shortest = int((prompts[decoding] + 1).min()) if decoding.any() else 1
    return RateWorkload(
        requests=int(served.sum()),
        prompt_tokens=max(int(prompts.sum()) - spared, 1),
        decode_steps=int(steps.sum()),
        held_tokens=int((outputs * own + outputs * steps // 2).sum()),
        attended_prompts=int(prompts[uncached].sum()),
        attended_squares=int(np.square(prompts[uncached].astype(np.float64)).sum()),
        attending_steps=int(steps[attending].sum()),
        attended_contexts=int(contexts[attending].sum()),
        shortest_context=shortest,
        longest_context=int((prompts[decoding] + steps[decoding]).max(initial=1)),
        longest_prompt=int(prompts[uncached].max(initial=1)),
        longest_request_tokens=int((prompts + outputs).max()),
    )


def _prefixes(workload: TraceWorkload, served: BoolArray) -> tuple[IntArray, int]:
    """Return what cached prefixes may save.

    Returns:
        Prompt tokens in leading prefix blocks that others have too, for each request served; and
        the tokens of all blocks but the first of each name.
    """
    names, unit = workload.prefix_blocks, workload.block_tokens
    numbers = np.flatnonzero(served)
    shared = np.zeros(len(numbers), np.int64)
    if names is None or unit is None:
        return shared, 0
    prompts = workload.prompt_tokens
    whole = [names[number][: int(prompts[number]) // unit] for number in numbers]
    found = Counter(name for each in whole for name in each)
    for position, each in enumerate(whole):
        alone = (place for place, name in enumerate(each) if found[name] == 1)
        shared[position] = unit * next(alone, len(each))
    return shared, unit * (sum(found.values()) - len(found))

"""Sequence: the progress of a request from its arrival to its last token."""

Name = int | tuple[int, int]
"""Name of a prefix block: a trace's, or (request, place) of a block that only one request has."""

Names = tuple[Name, ...]
"""Names of the blocks that a request starts with; equal names mean equal tokens up to there."""


class Sequence:
    """A request from its arrival to its last token.

    Attributes:
        request: its position in the workload.
        known_tokens: of the prompt and the output so far; what a prefill must compute.
        context_tokens: of the whole prompt and output.
        computed_tokens: whose keys and values are in its blocks.
        remaining: output tokens to be sampled.
        admission: how many were admitted before it; -1 while it waits for admission.
        token_s: when its last token was sampled, negative before the first.
        in_flight: whether a batch under way holds it.
        base: its context less the rounds of its cohort, while it is in one.
        bounded_blocks: KV blocks of its windows and states.
        blocks: KV blocks it holds, shared ones included; not kept up while it is in a cohort.
        names: names of the prefix blocks that its prompt fills, and that it filled when evicted.
        prefix: names of the shared ones among them.
    """

    __slots__ = (
        "admission",
        "base",
        "blocks",
        "bounded_blocks",
        "computed_tokens",
        "context_tokens",
        "in_flight",
        "known_tokens",
        "names",
        "prefix",
        "remaining",
        "request",
        "token_s",
    )

    def __init__(
        self,
        request: int,
        prompt_tokens: int,
        output_tokens: int,
        names: Names,
        bounded_blocks: int = 0,
    ) -> None:
        self.request = request
        self.known_tokens = prompt_tokens
        self.remaining = output_tokens
        self.context_tokens = prompt_tokens + output_tokens
        self.computed_tokens = self.blocks = self.base = 0
        self.admission = -1
        self.token_s = -1.0
        self.in_flight = False
        self.names = names
        self.bounded_blocks = bounded_blocks
        self.prefix: list[Name] = []

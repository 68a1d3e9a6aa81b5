"""Requests, and which of them a plan can serve."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.files import sha256_of
from runtimes.base import TokenRequest

Endpoint = Literal["/v1/chat/completions", "/v1/completions"]
CHAT: Endpoint = "/v1/chat/completions"
TEXT: Endpoint = "/v1/completions"

INVALID = "invalid_request"
UNSUPPORTED = "unsupported_parameter"
TOO_LONG = "context_length_exceeded"


class RejectionError(InputError):
    """A single request cannot be served; others can.

    Attributes:
        code: what kind of reason it is, for programs.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class PlanLimits:
    """The longest request that a plan has KV cache for, in tokens.

    Attributes:
        longest_prompt_tokens: of a prompt.
        longest_context_tokens: of a prompt and its output together.
        longest_output_tokens: of an output; None where only the context limits it.
    """

    longest_prompt_tokens: int
    longest_context_tokens: int
    longest_output_tokens: int | None = None

    def room_tokens(self, prompt_tokens: int) -> int:
        """Return how many tokens may be generated after a prompt; none or less if it is full."""
        room = self.longest_context_tokens - prompt_tokens
        return room if self.longest_output_tokens is None else min(room, self.longest_output_tokens)


@dataclass(frozen=True)
class AcceptedRequest:
    """A request that can be served.

    Attributes:
        tokens: the request as a runtime sees it; its name is the ``custom_id``.
        endpoint: whether a text or an answer in a conversation is wanted.
    """

    tokens: TokenRequest
    endpoint: Endpoint = TEXT

    def digest(self, model: str) -> str:
        """Return a hash of all that the answer follows from, but the model's weights.

        Equal digests mean that an earlier answer is still the answer. A seed counts only where
        tokens are drawn, the instant of arrival never.
        """
        sampling = self.tokens.sampling
        drawn = [sampling.temperature, sampling.top_k, sampling.top_p, sampling.seed]
        return sha256_of(
            {
                "model": model,
                "name": self.tokens.name,
                "endpoint": self.endpoint,
                "prompt": list(self.tokens.prompt),
                "output_tokens": self.tokens.output_tokens,
                "stop_tokens": sorted(set(self.tokens.stop_tokens)),
                "sampling": drawn if sampling.temperature > 0 else [],
            }
        )


@dataclass(frozen=True)
class RejectedRequest:
    """A request that cannot be served.

    Attributes:
        name: its ``custom_id``; None where it has none that can be read.
        code: what kind of reason it is, for programs.
        message: where the fault is, what was expected and what was found.
    """

    name: str | None
    code: str
    message: str


@dataclass(frozen=True)
class RequestSet:
    """All that is asked, in the order in which it is asked.

    Attributes:
        accepted: what can be served.
        rejected: what cannot, and why.
    """

    accepted: tuple[AcceptedRequest, ...]
    rejected: tuple[RejectedRequest, ...] = ()


def check_length(request: TokenRequest, limits: PlanLimits, where: str) -> None:
    """Raise RejectionError, which says by how much, if a plan cannot hold a request.

    Args:
        request: the request.
        limits: what the plan holds.
        where: what the message calls the request.
    """
    prompt, output = len(request.prompt), request.output_tokens
    longest_output = limits.longest_output_tokens
    if prompt > limits.longest_prompt_tokens:
        found = f"the prompt has {prompt} tokens"
        holds = f"prompts of at most {limits.longest_prompt_tokens}"
    elif longest_output is not None and output > longest_output:
        found = f"{output} tokens are to be generated"
        holds = f"outputs of at most {longest_output}"
    elif prompt + output > limits.longest_context_tokens:
        found = f"{prompt} tokens of prompt and {output} to generate are {prompt + output}"
        holds = f"at most {limits.longest_context_tokens} of a request"
    else:
        return
    raise RejectionError(
        TOO_LONG,
        f"{where}: {found}, but the plan holds {holds}: shorten the request, or plan for longer "
        f"ones (llmpq search --prompt-tokens {prompt} --output-tokens {output})",
    )


def divided_by_length(requests: Iterable[TokenRequest], limits: PlanLimits) -> RequestSet:
    """Return which requests of synthetic prompts a plan can hold and which not."""
    accepted, rejected = [], []
    for request in requests:
        try:
            check_length(request, limits, request.name)
        except RejectionError as error:
            rejected.append(RejectedRequest(request.name, error.code, str(error)))
        else:
            accepted.append(AcceptedRequest(request))
    return RequestSet(tuple(accepted), tuple(rejected))

"""Result lines in OpenAI's batch-output form.

A request that was served has a ``response`` and a null ``error``; one that was refused the other
way round. What follows from the request alone is written: ids are hashes, and ``created`` is 0, so
that the same requests and seeds give the same bytes. ``token_ids`` in a choice is an extension; its
name is vLLM's. Source of the form: OpenAI's API reference, "Batch".
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.io.files import sha256_of
from llmpq_sim.io.parsing import parse_json
from runtimes.base import Completion
from runtimes.deployment.generation_config import TextModel
from runtimes.deployment.requests import CHAT, AcceptedRequest, RejectedRequest

DIGEST_CHARACTERS = 24
LINE_ID = "batch_req_"


@dataclass(frozen=True)
class Result:
    """What a line says of its request, as far as a later run needs it.

    Attributes:
        line_id: its id, a hash of the request.
        name: the request's ``custom_id``; None where it had none that could be read.
        served: whether there is an answer.
        prompt_tokens, completion_tokens: of the answer.
    """

    line_id: str
    name: str | None
    served: bool
    prompt_tokens: int = 0
    completion_tokens: int = 0


@dataclass(frozen=True)
class UsageTotals:
    """What a file of results holds.

    Attributes:
        served, rejected: requests with and without an answer.
        prompt_tokens, completion_tokens: of all answers.
    """

    served: int = 0
    rejected: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0

    def plus(self, result: Result) -> "UsageTotals":
        """Return the totals with one more result."""
        return UsageTotals(
            self.served + result.served,
            self.rejected + (not result.served),
            self.prompt_tokens + result.prompt_tokens,
            self.completion_tokens + result.completion_tokens,
        )


def usage_totals(results: Iterable[Result]) -> UsageTotals:
    """Return how many requests were served and refused, and their tokens."""
    totals = UsageTotals()
    for result in results:
        totals = totals.plus(result)
    return totals


# ---- writing


def completion_id(asked: AcceptedRequest, model: TextModel) -> str:
    """Return the id of a served request's line, which says what was asked of which model."""
    return LINE_ID + _digest(asked, model)


def _digest(asked: AcceptedRequest, model: TextModel) -> str:
    return asked.digest(model.identity)[:DIGEST_CHARACTERS]


def completion_line(asked: AcceptedRequest, served: Completion, model: TextModel) -> bytes:
    """Return the line of a request that was served.

    Args:
        asked: the request.
        served: what was generated; a last token that ended it is not part of the text.
        model: the model asked; without its tokenizer the text is null.
    """
    digest = _digest(asked, model)
    kept = served.tokens[:-1] if served.ended_by == "stop" else served.tokens
    text = None if model.tokenizer is None else model.tokenizer.decode(kept)
    body = _chat_body if asked.endpoint == CHAT else _text_body
    return _line(
        {
            "id": LINE_ID + digest,
            "custom_id": asked.tokens.name,
            "response": {
                "status_code": 200,
                "request_id": "req_" + digest,
                "body": body(digest, model.name, text, served) | {"usage": _usage(asked, served)},
            },
            "error": None,
        }
    )


def _chat_body(digest: str, model: str, text: str | None, served: Completion) -> dict[str, object]:
    message = {"role": "assistant", "content": text}
    return {
        "id": "chatcmpl-" + digest,
        "object": "chat.completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "message": message} | _end(served)],
    }


def _text_body(digest: str, model: str, text: str | None, served: Completion) -> dict[str, object]:
    return {
        "id": "cmpl-" + digest,
        "object": "text_completion",
        "created": 0,
        "model": model,
        "choices": [{"index": 0, "text": text} | _end(served)],
    }


def _end(served: Completion) -> dict[str, object]:
    return {
        "logprobs": None,
        "finish_reason": served.ended_by,
        "token_ids": list(served.tokens),
    }


def _usage(asked: AcceptedRequest, served: Completion) -> dict[str, int]:
    prompt, completion = len(asked.tokens.prompt), len(served.tokens)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def rejected_id(rejected: RejectedRequest) -> str:
    """Return the id of a refused request's line, which says who was refused what."""
    digest = sha256_of([rejected.name, rejected.code, rejected.message])
    return LINE_ID + digest[:DIGEST_CHARACTERS]


def rejected_line(rejected: RejectedRequest) -> bytes:
    """Return the line of a request that was refused."""
    return _line(
        {
            "id": rejected_id(rejected),
            "custom_id": rejected.name,
            "response": None,
            "error": {"code": rejected.code, "message": rejected.message},
        }
    )


def _line(content: dict[str, object]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, allow_nan=False) + "\n").encode()


# ---- reading


def read_result(line: bytes, where: str) -> Result:
    """Return what a line of results says.

    Args:
        line: a whole line, with or without its end.
        where: what messages call it.

    Raises:
        InputError: it is no line that ``completion_line`` or ``rejected_line`` gives.
    """
    try:
        text = line.rstrip(b"\n").decode()
    except UnicodeDecodeError:
        raise InputError(f"{where}: expected a result, got bytes that are no UTF-8 text") from None
    fields = Fields(parse_json(text, where), where)
    with fields:
        name = fields.text("custom_id") if fields.has("custom_id") else None
        result_id = fields.text("id")
        if not result_id.startswith(LINE_ID):
            raise InputError(f"{where}.id: expected {LINE_ID} and a hash, got {result_id!r}")
        if fields.has("error"):
            fields.has("response")
            return Result(result_id, name, served=False)
        response = fields.fields("response")
    return _served_result(response, result_id, name)


def _served_result(response: Fields, result_id: str, name: str | None) -> Result:
    usage = response.fields("body").fields("usage")
    return Result(
        result_id,
        name,
        served=True,
        prompt_tokens=usage.integer("prompt_tokens"),
        completion_tokens=usage.integer("completion_tokens"),
    )

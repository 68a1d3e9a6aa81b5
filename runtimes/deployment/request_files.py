"""Request files in OpenAI's batch form, each line for itself.

A line is ``{"custom_id": …, "method": "POST", "url": …, "body": {…}}`` with the url
``/v1/chat/completions`` or ``/v1/completions``. A line that cannot be served is refused alone, with
a message; the others are served. Source of the form: OpenAI's API reference, "Batch".

- ``max_tokens`` or ``max_completion_tokens``: without either a completion gets 16 tokens, as at
  OpenAI, and an answer as many as the plan holds.
- ``temperature``, ``top_k``, ``top_p``: without them, what the model folder's
  generation_config.json says, and without that the most probable token is taken. A request that
  gives ``top_p`` or ``top_k`` alone is sampled at temperature 1.
- ``seed``: without it, one that follows from the run's seed and the ``custom_id``.
- ``stop``: texts of one token each; the output ends when that very token is generated.
- ``ignore_eos``, ``stop_token_ids`` and ``top_k`` are vLLM's extensions.
- ``model`` is not looked at: a plan serves one model.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import cast

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, is_text
from llmpq_sim.io.parsing import parse_json
from llmpq_sim.io.traces.streams import text_lines
from runtimes.deployment.generation_config import TextModel
from runtimes.deployment.request_bodies import BodyReader
from runtimes.deployment.requests import (
    CHAT,
    INVALID,
    TEXT,
    AcceptedRequest,
    Endpoint,
    PlanLimits,
    RejectedRequest,
    RejectionError,
    RequestSet,
    check_length,
)


def read_requests(path: Path, model: TextModel, limits: PlanLimits, seed: int = 0) -> RequestSet:
    """Return the requests of a file, plain or packed by gzip, and those of it that are refused.

    Args:
        path: JSON lines in OpenAI's batch form; blank lines say nothing.
        model: the model asked.
        limits: the longest request that the plan holds.
        seed: from which requests without a seed draw, each by its name.

    Raises:
        InputError: the file cannot be read, has no request, or a custom_id repeats.
    """
    reader = BodyReader(model, limits, seed)
    first_lines: dict[str, int] = {}
    accepted: list[AcceptedRequest] = []
    rejected: list[RejectedRequest] = []
    for number, line in _numbered_lines(path):
        asked = _read_line(line, f"{path.name} line {number}", reader)
        _check_distinct(asked, number, first_lines, path)
        if isinstance(asked, AcceptedRequest):
            accepted.append(asked)
        else:
            rejected.append(asked)
    if not accepted and not rejected:
        raise InputError(f"{path.name}: expected requests, but the file has none")
    return RequestSet(tuple(accepted), tuple(rejected))


def _numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    for number, line in enumerate(text_lines(path), start=1):
        if line.strip():
            yield number, line


def _check_distinct(
    asked: AcceptedRequest | RejectedRequest, number: int, first_lines: dict[str, int], path: Path
) -> None:
    """Raise InputError if an earlier line has the same name: results could not be told apart."""
    name = asked.tokens.name if isinstance(asked, AcceptedRequest) else asked.name
    if name is None:
        return
    if name in first_lines:
        raise InputError(
            f"{path.name} line {number}: expected distinct custom_ids, got {name!r}, which line "
            f"{first_lines[name]} has, too"
        )
    first_lines[name] = number


def _read_line(line: str, where: str, reader: BodyReader) -> AcceptedRequest | RejectedRequest:
    name = None
    try:
        content = parse_json(line, where)
        name = _name_of(content)
        return _read_request(Fields(content, where), where, reader)
    except RejectionError as error:
        return RejectedRequest(name, error.code, str(error))
    except InputError as error:
        return RejectedRequest(name, INVALID, str(error))


def _name_of(content: object) -> str | None:
    """Return a line's custom_id, whatever else is wrong with the line."""
    name = content.get("custom_id") if isinstance(content, dict) else None
    return cast("str", name) if is_text(name) else None


def _read_request(fields: Fields, where: str, reader: BodyReader) -> AcceptedRequest:
    with fields:
        name = fields.text("custom_id")
        fields.choice("method", ("POST",))
        endpoint = cast("Endpoint", fields.choice("url", (CHAT, TEXT)))
        request = reader.read(fields.fields("body"), name, endpoint)
    check_length(request, reader.limits, where)
    return AcceptedRequest(request, endpoint)

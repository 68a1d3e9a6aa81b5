"""Requests, and results of them, for tests."""

import json
from pathlib import Path
from typing import Any

from runtimes.base import Completion, EndedBy, TokenRequest
from runtimes.deployment.generation_config import TextModel
from runtimes.deployment.requests import AcceptedRequest, RejectedRequest, RequestSet
from runtimes.deployment.result_files import open_results
from runtimes.deployment.result_lines import UsageTotals
from tests.runtimes.tokenizers_of_tests import END_ID

MODEL = TextModel("tiny", 1000)
NAMES = ("a", "bé 雪", "c")
REFUSED = (
    RejectedRequest("r", "invalid_request", "in.jsonl line 4: no"),
    RejectedRequest(None, "invalid_request", "in.jsonl line 5: not JSON"),
)


def asked(name: str, **others: Any) -> AcceptedRequest:
    """Return a request for three tokens."""
    return AcceptedRequest(TokenRequest(name, (5, 6), 3, **others))


ALL = RequestSet(tuple(asked(name) for name in NAMES), REFUSED)


def answer(position: int, item: AcceptedRequest, ended_by: EndedBy = "length") -> Completion:
    """Return an answer that follows from the request."""
    return Completion(position, (len(item.tokens.name), 8, END_ID), ended_by)


def write(
    path: Path,
    requests: RequestSet = ALL,
    *,
    most: int | None = None,
    resume: bool = False,
    model: TextModel = MODEL,
) -> UsageTotals:
    """Answer so many of the requests that a file lacks, all by default."""
    with open_results(path, requests, model, resume=resume) as writer:
        for position, item in enumerate(writer.pending[:most]):
            writer.write_completion(answer(position, item))
        return writer.totals


def lines_of(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a file as what they hold."""
    content = path.read_bytes()
    assert content.endswith(b"\n")
    return [json.loads(line) for line in content.split(b"\n")[:-1]]

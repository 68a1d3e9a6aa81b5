"""Contents of tiny traces for tests."""

import json
from typing import Any

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens\n"
ROW = "2023-11-16 18:15:46.6805900,374,44\n"
MOONCAKE = '{"timestamp": 0, "input_length": 6, "output_length": 2}\n'

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    "2023-11-16 18:15:46.6805900,374,44\r\n"
    "2023-11-16 18:15:50.9951690,396,109"
)
AZURE_COLUMNS = ([0.0, 4.314579], [374, 396], [44, 109])


def lines(*records: dict[str, Any]) -> str:
    """Return records as JSON lines."""
    return "\n".join(json.dumps(record) for record in records)


def mooncake(timestamp: float, prompt: int = 6, output: int = 2, **others: Any) -> dict[str, Any]:
    """Return a record of Mooncake."""
    lengths = {"input_length": prompt, "output_length": output}
    return {"timestamp": timestamp} | lengths | others


BATCH = lines(
    {
        "custom_id": "request-1",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {
            "model": "m",
            "messages": [
                {"role": "system", "content": "x" * 8},
                {"role": "user", "content": [{"type": "text", "text": "y" * 5}, {"type": "image"}]},
                {"role": "assistant", "content": None},
            ],
            "max_tokens": 1000,
        },
    },
    {"custom_id": "2", "body": {"prompt": "z" * 9, "max_completion_tokens": 5}},
    {"custom_id": "3", "body": {"prompt": [1, 2, 3], "max_tokens": 6}},
)

SHAREGPT = [
    {"id": "1", "conversations": [{"from": "human", "value": "a" * 9}, {"value": "b" * 4}]},
    {"id": "2", "conversations": [{"from": "gpt", "value": "alone"}]},
    {"id": "3", "conversations": [{"value": "c"}, {"value": "d"}, {"value": "e"}]},
]

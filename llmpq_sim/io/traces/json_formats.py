"""JSON trace formats that state token counts."""

from collections.abc import Iterator

from llmpq_sim.io.traces.json_records import Record
from llmpq_sim.io.traces.rows import (
    Place,
    Reading,
    Row,
    json_blocks,
    json_identity,
    json_objects,
    json_time,
    json_tokens,
)

PROMPT_KEYS = ("input_length", "input_tokens")
OUTPUT_KEYS = ("output_length", "output_tokens")
TIME_KEYS = ("timestamp", "created_time")
DELAY_KEYS = ("delay", "delay_ms")
OPEN_LOOP = (
    "later turns arrive a stated delay after the turn before arrived; the time to serve that one "
    "is not known and not added"
)


def mooncake_rows(reading: Reading) -> Iterator[Row]:
    """Yield rows of Mooncake and its relatives; a turn without a time follows the one before."""
    before: dict[object, float] = {}
    for place, record in reading.records():
        time = json_time(record, TIME_KEYS, place)
        session = json_identity(record, "session_id", place)
        if session is not None:
            if time is None:
                time = before.get(session, 0) + (json_time(record, DELAY_KEYS, place) or 0)
                reading.note(OPEN_LOOP)
            before[session] = time
        yield _lengths(record, place, time, session, json_blocks(record, "hash_ids", place))


def bailian_rows(reading: Reading) -> Iterator[Row]:
    """Yield rows of the Qwen-Bailian traces, whose turns name the turn before."""
    root: dict[object, object] = {}
    for place, record in reading.records():
        chat = json_identity(record, "chat_id", place)
        parent = json_identity(record, "parent_chat_id", place)
        root[chat] = root.get(parent, chat)
        time = json_time(record, TIME_KEYS, place)
        if time is None:
            raise place.wrong("timestamp", "a time as a number", None)
        yield _lengths(record, place, time, root[chat], json_blocks(record, "hash_ids", place))


def length_rows(reading: Reading) -> Iterator[Row]:
    """Yield rows that state lengths and nothing else."""
    for place, record in reading.records():
        yield _lengths(record, place, None, None, None)


def _lengths(
    record: Record,
    place: Place,
    time: float | None,
    session: object,
    blocks: tuple[int, ...] | None,
) -> Row:
    prompt = json_tokens(record, PROMPT_KEYS, place)
    return Row(time, prompt, json_tokens(record, OUTPUT_KEYS, place), session, blocks)


# ---- requests inside other records


def llmservingsim_rows(reading: Reading) -> Iterator[Row]:
    """Yield rows of LLMServingSim, of single requests and of sessions of several."""
    for place, record in reading.records():
        time = json_time(record, ("arrival_time_ns",), place)
        if time is None:
            raise place.wrong("arrival_time_ns", "a time as a number", None)
        if "sub_requests" not in record:
            yield _toks(record, place, time, None)
            continue
        session = json_identity(record, "session_id", place)
        for turn in json_objects(record, "sub_requests", place):
            yield _toks(turn, place, time, session if session is not None else place.line)
            time += json_time(turn, ("tool_duration_ns",), place) or 0
            reading.note(OPEN_LOOP)


def _toks(record: Record, place: Place, time: float, session: str | int | None) -> Row:
    prompt = json_tokens(record, ("input_toks",), place)
    return Row(time, prompt, json_tokens(record, ("output_toks",), place), session)


def aibrix_rows(reading: Reading) -> Iterator[Row]:
    """Yield rows of AIBrix, whose lines hold all requests of an instant."""
    for place, record in reading.records():
        time = json_time(record, ("timestamp",), place)
        if time is None:
            raise place.wrong("timestamp", "a time as a number", None)
        for request in json_objects(record, "requests", place):
            prompt = json_tokens(request, ("Prompt Length", "prompt_length"), place)
            output = json_tokens(request, ("Output Length", "output_length"), place)
            yield Row(time, prompt, output)


def dynamo_rows(reading: Reading) -> Iterator[Row]:
    """Yield rows of Dynamo's request traces, whose requests are inside events."""
    for place, record in reading.records():
        event = record.get("event")
        if not isinstance(event, dict) or not str(event.get("schema")).startswith(DYNAMO_SCHEMA):
            raise place.wrong("event", f"an event of the schema {DYNAMO_SCHEMA}", event)
        request = event.get("request")
        if not isinstance(request, dict):
            reading.dropped["without a request"] += 1
            continue
        time = json_time(request, ("request_received_ms",), place)
        replay = request.get("replay")
        blocks = None
        if isinstance(replay, dict):
            blocks = json_blocks(replay, "input_sequence_hashes", place)
            if "trace_block_size" in replay:
                reading.block_tokens = json_tokens(replay, ("trace_block_size",), place)
        yield _lengths(
            request,
            place,
            json_time(record, ("timestamp",), place) if time is None else time,
            json_identity(request, "session_id", place),
            blocks,
        )


DYNAMO_SCHEMA = "dynamo.request.trace"

"""Strict parsers of JSON and YAML texts into plain data.

Whatever a text holds, parsing it gives plain data or one InputError that says where: no duplicate
keys, no aliases or tags, no infinities, no nesting that exhausts the stack.
"""

import json
import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Any, NoReturn

import yaml

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import kind_of
from llmpq_sim.core.limits import (
    DEEPEST_NESTING,
    LONGEST_NUMBER_DIGITS,
    MOST_JSON_CONTAINERS,
    MOST_JSON_VALUES,
)

# ---- JSON


def parse_json(text: str, where: str, *, finite: bool = True) -> object:
    """Return the content of a JSON text.

    Args:
        text: the JSON text.
        where: what messages call it.
        finite: whether numbers must be finite, as those of JSON are.

    Raises:
        InputError: it is not JSON; it has duplicate keys, numbers that are not finite, lone
            surrogates, more than 64 levels, or more objects, lists and values than any file of
            ours (which are counted before any of them is made).
    """
    _check_count(text, where)
    try:
        content: object = json.loads(text, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{where}: not JSON at {place}: {error.msg}") from None
    except RecursionError:
        raise _too_deep(where) from None
    except ValueError as error:
        raise InputError(f"{where}: {_short(error)}") from None
    _check_tree(content, where, finite=finite)
    return content


def _check_count(text: str, where: str) -> None:
    """Raise InputError for a text of more values than any file has, by the signs between them."""
    containers = text.count("{") + text.count("[")
    if containers > MOST_JSON_CONTAINERS:
        raise InputError(
            f"{where}: expected at most {MOST_JSON_CONTAINERS} objects and lists, got {containers}"
        )
    values = containers + text.count(",")
    most = max(MOST_JSON_VALUES, len(text) // 4)
    if values > most:
        raise InputError(f"{where}: expected at most {most} values, got {values}")


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        repeated = counts.most_common(1)[0][0]
        raise ValueError(f"expected distinct keys, got {kind_of(repeated)} more than once")
    return mapping


def _short(error: Exception) -> str:
    if "int_max_str_digits" in str(error):  # Python's guard against slow conversions
        return f"expected numbers of at most {LONGEST_NUMBER_DIGITS} digits"
    return str(error)


def _too_deep(where: str) -> InputError:
    return InputError(f"{where}: expected at most {DEEPEST_NESTING} levels of nesting, got more")


def _check_tree(content: object, where: str, *, finite: bool = True) -> None:
    """Raise InputError for what the formats allow and no file of ours holds."""
    level = [content]
    for _ in range(DEEPEST_NESTING):
        below: list[object] = []
        for value in level:
            if isinstance(value, dict):
                below += value.keys()
                below += value.values()
            elif isinstance(value, list):
                below += value
            elif finite and isinstance(value, float) and not math.isfinite(value):
                raise InputError(f"{where}: expected finite numbers, got {value}")
            elif isinstance(value, str) and _has_surrogate(value):
                raise InputError(f"{where}: expected Unicode text, got {kind_of(value)}")
        level = below
    if level:
        raise _too_deep(where)


def _has_surrogate(text: str) -> bool:
    return not text.isascii() and re.search("[\ud800-\udfff]", text) is not None


# ---- YAML


def parse_yaml(text: str, where: str) -> object:
    """Return the content of a YAML text.

    Plain words are read as in YAML 1.2's core schema: ``no`` and ``1:30`` are texts, ``1e3`` is a
    number. Source: YAML 1.2.2, sec. 10.3.2.

    Args:
        text: the YAML text.
        where: what messages call it.

    Raises:
        InputError: it is not YAML; it has duplicate keys, anchors, aliases, tags, several
            documents, or more than 64 levels.
    """
    try:
        content = _document(text)
    except yaml.MarkedYAMLError as error:
        raise InputError(f"{where}: not usable YAML{_place(error)}: {error.problem}") from None
    except yaml.YAMLError as error:
        raise InputError(f"{where}: not YAML: {str(error).splitlines()[0]}") from None
    except (ValueError, OverflowError) as error:
        raise InputError(f"{where}: not YAML: {_short(error)}") from None
    _check_tree(content, where)
    return content


def _place(error: yaml.MarkedYAMLError) -> str:
    mark = error.problem_mark
    return f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""


_PARSER: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""libyaml's parser where PyYAML has it, as its wheels do; it is ten times as fast."""


def _document(text: str) -> object:
    """Return the only document of a text; an empty one is nothing."""
    documents: list[object] = []
    events: Iterator[Any] = yaml.parse(text, Loader=_PARSER)
    for event in events:
        if isinstance(event, yaml.DocumentStartEvent):
            if documents:
                _refuse("but found another document", event)
            documents.append(_node(next(events), events, 1))
    return documents[0] if documents else None


def _node(event: Any, events: Iterator[Any], depth: int) -> object:
    """Return the plain data that begins with an event: no alias, no tag, no key twice."""
    if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
        _refuse("expected no anchors or aliases", event)
    if event.tag is not None:
        _refuse(f"expected no tags, got {event.tag}", event)
    if depth > DEEPEST_NESTING:
        _refuse(f"expected at most {DEEPEST_NESTING} levels of nesting", event)
    if isinstance(event, yaml.ScalarEvent):
        return _scalar(event)
    if isinstance(event, yaml.SequenceStartEvent):
        items = []
        while not isinstance(event := next(events), yaml.SequenceEndEvent):
            items.append(_node(event, events, depth + 1))
        return items
    return _mapping(events, depth)


def _mapping(events: Iterator[Any], depth: int) -> dict[object, object]:
    mapping: dict[object, object] = {}
    seen: set[str] = set()
    while not isinstance(event := next(events), yaml.MappingEndEvent):
        key = _node(event, events, depth + 1)
        if isinstance(key, list | dict):
            _refuse("found unhashable key", event)
        if event.value in seen or key in mapping:
            _refuse(f"expected distinct keys, got {event.value!r} more than once", event)
        seen.add(event.value)
        mapping[key] = _node(next(events), events, depth + 1)
    return mapping


def _refuse(problem: str, at: Any) -> NoReturn:
    raise yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


_NULL = re.compile(r"~|null|Null|NULL|")
_BOOL = re.compile(r"true|True|TRUE|false|False|FALSE")
_INT = re.compile(r"[-+]?(?:0|[1-9][0-9]*)")
_FLOAT = re.compile(
    r"[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?|[0-9]+[eE][-+]?[0-9]+)"
)


def _scalar(event: Any) -> object:
    """Return a plain word by the core schema; what stands in quotes is a text."""
    text: str = event.value
    if not event.implicit[0]:
        return text
    if _NULL.fullmatch(text):
        return None
    if _BOOL.fullmatch(text):
        return text.lower() == "true"
    if _INT.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text

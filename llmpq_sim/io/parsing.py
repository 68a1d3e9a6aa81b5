"""Strict parsers of JSON and YAML texts into plain data.

Whatever a text holds, parsing it gives plain data or one InputError that says where: no duplicate
keys, no aliases or tags, no infinities, no nesting that exhausts the stack.
"""

import json
import math
import re
from collections import Counter
from typing import Any, NoReturn

import yaml

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import kind_of

DEEPEST_NESTING = 64

# ---- JSON


def parse_json(text: str, where: str) -> object:
    """Return the content of a JSON text.

    Args:
        text: the JSON text.
        where: what messages call it.

    Raises:
        InputError: it is not JSON; it has duplicate keys, numbers that are not finite, lone
            surrogates, or more than 64 levels.
    """
    try:
        content: object = json.loads(text, object_pairs_hook=_distinct)
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InputError(f"{where}: not JSON at {place}: {error.msg}") from None
    except RecursionError:
        raise _too_deep(where) from None
    except ValueError as error:
        raise InputError(f"{where}: {_short(error)}") from None
    _check_tree(content, where)
    return content


def _distinct(pairs: list[tuple[str, object]]) -> dict[str, object]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        counts = Counter(key for key, _ in pairs)
        repeated = counts.most_common(1)[0][0]
        raise ValueError(f"expected distinct keys, got {kind_of(repeated)} more than once")
    return mapping


def _short(error: Exception) -> str:
    if "int_max_str_digits" in str(error):  # Python's guard against slow conversions
        return "expected numbers of at most 4300 digits"
    return str(error)


def _too_deep(where: str) -> InputError:
    return InputError(f"{where}: expected at most {DEEPEST_NESTING} levels of nesting, got more")


def _check_tree(content: object, where: str) -> None:
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
            elif isinstance(value, float) and not math.isfinite(value):
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
        content: object = yaml.load(text, Loader=_StrictLoader)
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


class _StrictLoader(yaml.SafeLoader):
    """Plain data only: no alias that expands, no tag that constructs, no key twice."""

    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012  PyYAML's own name and type

    def __init__(self, stream: str) -> None:
        super().__init__(stream)
        self._depth = 0

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        event = self.peek_event()  # type: ignore[no-untyped-call]
        if isinstance(event, yaml.AliasEvent) or event.anchor is not None:
            self._refuse("expected no anchors or aliases", event)
        if event.tag is not None:
            self._refuse(f"expected no tags, got {event.tag}", event)
        self._depth += 1
        if self._depth > DEEPEST_NESTING:
            self._refuse(f"expected at most {DEEPEST_NESTING} levels of nesting", event)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key_node, _ in node.value:
            key = getattr(key_node, "value", None)
            if isinstance(key, str):
                if key in seen:
                    self._refuse(f"expected distinct keys, got {key!r} more than once", key_node)
                seen.add(key)
        return super().construct_mapping(node, deep)

    @staticmethod
    def _refuse(problem: str, at: Any) -> NoReturn:
        raise yaml.MarkedYAMLError(problem=problem, problem_mark=at.start_mark)


_CORE_SCHEMA = {
    "null": (r"~|null|Null|NULL|", [*"~nN", ""]),
    "bool": (r"true|True|TRUE|false|False|FALSE", [*"tTfF"]),
    "int": (r"[-+]?(?:0|[1-9][0-9]*)", [*"-+0123456789"]),
    "float": (
        r"[-+]?(?:[0-9]+\.[0-9]*(?:[eE][-+]?[0-9]+)?|\.[0-9]+(?:[eE][-+]?[0-9]+)?"
        r"|[0-9]+[eE][-+]?[0-9]+)",
        [*"-+.0123456789"],
    ),
}
for _kind, (_pattern, _first) in _CORE_SCHEMA.items():
    _StrictLoader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(f"^(?:{_pattern})$"), _first
    )

"""Seeded mutations of bytes and of trees of plain data."""

import json
from collections.abc import Callable
from copy import deepcopy
from random import Random
from typing import Any

TOKENS = (
    b"\x00", b"\xff", b"\xef\xbb\xbf", b"\n", b"\r", b'"', b",", b"{", b"[", b"]", b"}", b"NaN",
    b"-1", b"1e999", b"9" * 30, b"\\ud800", b"null", b"&a", b"*a", b"!!x", b"PAR1", b"PK\x03\x04",
    b"\x1f\x8b", b"\xff\xff\xff\xff", b"\x80\x02", b"..", b"%s", b"{{", b"'a' * 3000000000",
)  # fmt: skip

SCALARS: tuple[object, ...] = (
    None, True, False, 0, 1, -1, 2, 10**9, 10**18, 10**30, 2**63, 2**64 - 1, -(2**63), 10**400,
    0.0, -0.0, 0.5, 5e-324, 1e-300, 1e300, -1e300, float("nan"), float("inf"), "", " ", "x", "\n",
    "\x00", "é雪", "1", "1e5", "nan", "x" * 300, "9" * 5000, "../x", "/dev/zero", "{{ 1 / 0 }}",
    "{{ 'a' * 3000000000 }}", [], {}, [[]], {"a": {}}, [0] * 2000, ["x"] * 500,
)  # fmt: skip


MOST_PLACES = 20_000


def mutated_bytes(content: bytes, random: Random) -> bytes:
    """Return content with a few bytes flipped, cut out, repeated, or other ones put in."""
    changed = bytearray(content)
    for _ in range(random.choice((1, 1, 2, 4, 16))):
        at = random.randrange(len(changed) + 1)
        end = min(len(changed), at + random.choice((1, 1, 4, 64)))
        kind = random.randrange(6)
        if kind == 0 and at < len(changed):
            changed[at] ^= 1 << random.randrange(8)
        elif kind == 1:
            changed[at:end] = random.randbytes(end - at)
        elif kind == 2:
            del changed[at:end]
        elif kind == 3:
            changed[at:at] = changed[at:end] * random.choice((1, 2, 100))
        elif kind == 4:
            changed[at:at] = random.choice(TOKENS)
        elif random.random() < 0.3:
            del changed[at:]
    return bytes(changed)


def mutated_tree(tree: Any, random: Random) -> Any:
    """Return plain data with a few values, keys or items changed."""
    tree = json.loads(json.dumps(tree))
    for _ in range(random.choice((1, 1, 1, 2, 4))):
        places = _places(tree)
        if not places:
            return deepcopy(random.choice(SCALARS))
        holder, key = random.choice(places)
        random.choice(_CHANGES)(holder, key, random)
    return tree


def _places(tree: Any) -> list[tuple[Any, Any]]:
    found: list[tuple[Any, Any]] = []
    rest = [tree]
    while rest and len(found) < MOST_PLACES:
        node = rest.pop()
        keys: Any = node if isinstance(node, dict) else range(len(node)) if _is_list(node) else ()
        found += [(node, key) for key in keys]
        rest += [node[key] for key in keys]
    return found


def _is_list(node: object) -> bool:
    return isinstance(node, list)


def _replace(holder: Any, key: Any, random: Random) -> None:
    holder[key] = deepcopy(random.choice(SCALARS))


def _remove(holder: Any, key: Any, _: Random) -> None:
    del holder[key]


def _scale(holder: Any, key: Any, random: Random) -> None:
    value = holder[key]
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if is_number and abs(value) < 10**300:  # a larger whole number times a fraction is an error
        holder[key] = value * random.choice((-1, 0, 2, 10**6, 10**12, 1e-6, 1e-300, 1e300))


def _nest(holder: Any, key: Any, random: Random) -> None:
    for _ in range(random.choice((1, 3, 70, 500))):
        holder[key] = [holder[key]]


def _repeat(holder: Any, key: Any, random: Random) -> None:
    if isinstance(holder, list):
        is_plain = not isinstance(holder[key], list | dict)  # or changes of changes have no end
        holder.extend([holder[key]] * random.choice((1, 3, 1000 if is_plain else 8)))
    else:
        holder[f"{key}{random.choice(('', ' ', '_2', 'x'))}"] = holder[key]


def _rename(holder: Any, key: Any, random: Random) -> None:
    if isinstance(holder, dict):
        holder[str(random.choice(SCALARS[22:36]))] = holder.pop(key)


_CHANGES: tuple[Callable[[Any, Any, Random], None], ...] = (
    _replace,
    _replace,
    _replace,
    _remove,
    _scale,
    _nest,
    _repeat,
    _rename,
)

"""Dataclasses to plain data and back, by their type hints.

In a file, ``str`` is a text, ``bool`` true or false, ``int`` a whole number of at least 1,
``float`` a positive number, ``Literal`` one of its texts, a dataclass a mapping, ``X | None`` an X
or null, ``tuple[X, ...]`` a list and ``dict[str, X]`` a mapping with free keys; lists of ``float``
take any finite number. ``Annotated`` says what differs: a Rule for a value, a Codec for a shape, a
Key or a Place for where it stands. A class with a ``header`` is a file of its own.
"""

from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from enum import Enum
from functools import cache, partial
from types import NoneType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TypeVar,
    get_args,
    get_origin,
    get_type_hints,
)

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import (
    FINITE,
    FLAG,
    FRACTION,
    NOT_NEGATIVE,
    POSITIVE,
    TEXT,
    Fields,
    Rule,
    check_header,
    one_of,
    whole,
)

Record = TypeVar("Record")

Natural = Annotated[int, whole(0)]
NotNegative = Annotated[float, NOT_NEGATIVE]
Finite = Annotated[float, FINITE]
Fraction = Annotated[float, FRACTION]


class Header(NamedTuple):
    """What a file says of its own format."""

    schema: str
    version: int


class Key(NamedTuple):
    """The key of a field in files where it is not its name."""

    name: str


class Place(Enum):
    """Where a field stands in files.

    DEFAULTED fields may be missing, then they have their default; OPTIONAL ones are written only
    where they differ from it. INLINE ones give their keys to the mapping around them, LAST ones are
    written after all others, and ABSENT ones stand in no file: who reads gives them.
    """

    DEFAULTED = 1
    OPTIONAL = 2
    INLINE = 3
    LAST = 4
    ABSENT = 5


@dataclass(frozen=True)
class Codec:
    """How a field is read from the mapping that holds it, by its key, and made plain data."""

    read: Callable[[Fields, str], Any]
    write: Callable[[Any], Any] = lambda value: value


@dataclass(frozen=True)
class _Entry:
    attribute: str
    key: str
    codec: Codec
    places: frozenset[Place]
    may_be_missing: bool
    default: Any


def to_dict(record: Any) -> dict[str, Any]:
    """Return a record as plain data that ``from_dict`` reads back exactly."""
    header: Header | None = getattr(record, "header", None)
    content: dict[str, Any] = {} if header is None else header._asdict()
    for entry in _entries(record.__class__):
        value = getattr(record, entry.attribute)
        if Place.OPTIONAL not in entry.places or value != entry.default:
            written = entry.codec.write(value)
            content |= written if Place.INLINE in entry.places else {entry.key: written}
    return content


def from_dict(kind: type[Record], content: Fields, **given: Any) -> Record:
    """Return the record that a mapping describes, but for what is given.

    Raises:
        InputError: a value is missing, unknown or cannot be.
    """
    header: Header | None = getattr(kind, "header", None)
    with content:
        if header is not None:
            check_header(content, *header)
        return kind(**_values(kind, content, *given), **given)


def keys(kind: Any) -> tuple[str, ...]:
    """Return the keys that a record has in files."""
    return tuple(entry.key for entry in _entries(kind))


def bounded(least: float, most: float) -> Codec:
    """Return the codec of numbers within bounds."""

    def read(content: Fields, name: str) -> float:
        value = content.signed(name)
        if not least <= value <= most:
            expected = f"a number of {least:g} to {most:g}"
            raise InputError(f"{content.where}.{name}: expected {expected}, got {value:g}")
        return value

    return Codec(read)


def one_of_kinds(key: str, **kinds: type[Any]) -> Codec:
    """Return the codec of a record of one of some kinds, or None, whose name stands under a key."""
    names = {kind: name for name, kind in kinds.items()}

    def read(content: Fields, name: str) -> Any:
        if not content.has(name):
            return None
        with content.fields(name) as part:
            kind = kinds[part.choice(key, tuple(kinds))]
            return kind(**_values(kind, part))

    def write(record: Any) -> dict[str, Any] | None:
        return None if record is None else {key: names[type(record)], **to_dict(record)}

    return Codec(read, write)


def columns(kind: type[Any], noun: str) -> Codec:
    """Return the codec of records of single values that are kept as columns of equal length."""
    hints = get_type_hints(kind, include_extras=True)
    rules = {field.name: rule for field in fields(kind) if (rule := _rule(hints[field.name]))}
    names = {name: _key(name, hints[name]) for name in rules}

    def read(content: Fields, name: str) -> tuple[Any, ...]:
        with content.fields(name) as part:
            found = [part.rows(names[column], rule) for column, rule in rules.items()]
        lengths = sorted({len(column) for column in found})
        if len(lengths) > 1:
            expected = f"columns of as many {noun} each"
            raise InputError(f"{part.where}: expected {expected}, got {lengths}")
        return tuple(kind(*row) for row in zip(*found, strict=True))

    def write(rows: tuple[Any, ...]) -> dict[str, list[Any]]:
        return {names[column]: [getattr(row, column) for row in rows] for column in rules}

    return Codec(read, write)


# ---- hints

RULES: dict[Any, Rule] = {str: TEXT, bool: FLAG, int: whole(1), float: POSITIVE}


@cache
def _entries(kind: Any) -> tuple[_Entry, ...]:
    hints = get_type_hints(kind, include_extras=True)
    entries = []
    for field in fields(kind):
        hint = hints[field.name]
        notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
        places = frozenset(note for note in notes if isinstance(note, Place))
        if Place.ABSENT in places:
            continue
        codec = _codec(hint)
        if Place.INLINE in places and is_dataclass(inner := get_args(hint)[0]):
            codec = Codec(partial(_inline, inner), to_dict)
        entries.append(
            _Entry(
                attribute=field.name,
                key=_key(field.name, hint),
                codec=codec,
                places=places,
                may_be_missing=bool(places & {Place.DEFAULTED, Place.OPTIONAL}),
                default=field.default
                if field.default_factory is MISSING
                else field.default_factory(),
            )
        )
    return tuple(sorted(entries, key=lambda entry: Place.LAST in entry.places))


def _key(name: str, hint: Any) -> str:
    """Return the key of a field in files."""
    notes = get_args(hint)[1:] if get_origin(hint) is Annotated else ()
    return next((note.name for note in notes if isinstance(note, Key)), name)


def _values(kind: Any, content: Fields, *given: str) -> dict[str, Any]:
    return {
        entry.attribute: entry.codec.read(content, entry.key)
        for entry in _entries(kind)
        if entry.attribute not in given
        and not (entry.may_be_missing and not content.has(entry.key))
    }


def _inline(kind: Any, content: Fields, _: str) -> Any:
    return kind(**_values(kind, content))


@cache
def _codec(hint: Any) -> Codec:
    """Return how values of a type are read and written."""
    rule = _rule(hint)
    if rule is not None:
        return Codec(lambda content, name: content.checked(name, rule))
    if get_origin(hint) is Annotated:
        kind, *notes = get_args(hint)
        given = next((note for note in notes if isinstance(note, Codec)), None)
        return given or _codec(kind)
    return _shape(hint)


def _rule(hint: Any) -> Rule | None:
    """Return what a single value must be, or None for other types."""
    if get_origin(hint) is Literal:
        return one_of(get_args(hint))
    if get_origin(hint) is not Annotated:
        return RULES.get(hint)
    kind, *notes = get_args(hint)
    if any(isinstance(note, Codec) for note in notes):
        return None
    return next((note for note in notes if isinstance(note, Rule)), RULES.get(kind))


def _shape(hint: Any) -> Codec:
    origin, arguments = get_origin(hint), get_args(hint)
    if NoneType in arguments:
        codec = _codec(next(each for each in arguments if each is not NoneType))
        return Codec(
            lambda content, name: codec.read(content, name) if content.has(name) else None,
            lambda value: None if value is None else codec.write(value),
        )
    if origin is tuple and arguments[1:] == (...,):
        return _list(arguments[0])
    if origin is dict:
        return _mapping(*arguments)
    if is_dataclass(hint):
        return Codec(lambda content, name: from_dict(hint, content.fields(name)), to_dict)  # type: ignore[arg-type]
    raise TypeError(f"no file can hold {hint}")


def _list(item: Any) -> Codec:
    if item in (str, float):
        return Codec(Fields.texts if item is str else Fields.numbers, list)
    rule = _rule(item)
    if rule is not None:
        return Codec(lambda content, name: tuple(content.rows(name, rule)), list)
    return Codec(
        lambda content, name: tuple(from_dict(item, each) for each in content.each(name)),
        lambda values: [to_dict(value) for value in values],
    )


def _mapping(key: Any, item: Any) -> Codec:
    """Return the codec of a mapping with free keys, which functions noted with them check."""
    checks, codec = get_args(key)[1:], _codec(item)

    def read(content: Fields, name: str) -> dict[str, Any]:
        found = {}
        with content.fields(name) as part:
            for each in part.names():
                for check in checks:
                    check(each, part.where)
                found[each] = codec.read(part, each)
        return found

    return Codec(read, lambda values: {key: codec.write(value) for key, value in values.items()})

"""Strict reader of mappings: each field by name and kind, and no field left unread."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from llmpq_sim.core import limits
from llmpq_sim.core.errors import InputError

MISSING = object()
LARGEST_NUMBER = limits.LARGEST_NUMBER


def kind_of(value: object) -> str:
    """Return a short description of a value for a message, such as ``-16`` or ``a list``."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing"
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."


@dataclass(frozen=True)
class Rule:
    """What a single value must be.

    Attributes:
        expected: how a message calls it, such as ``a positive number``.
        accept: whether a value is one.
        convert: what is taken for it.
        if_tiny: what a message adds for a number above zero but next to nothing.
    """

    expected: str
    accept: Callable[[Any], bool]
    convert: Callable[[Any], Any] = lambda value: value
    if_tiny: str = ""

    def refused(self, where: str, value: object) -> InputError:
        """Return the error of a value that does not follow the rule."""
        is_tiny = is_number(value, positive=False) and 0 < value < limits.LEAST_POSITIVE  # type: ignore[operator]
        expected = self.expected + (self.if_tiny if is_tiny else "")
        return InputError(f"{where}: expected {expected}, got {kind_of(value)}")


class Fields:
    """A mapping read field by field; leaving its ``with`` block rejects the keys nobody read.

    Attributes:
        where: what a message calls this mapping, such as ``lab.yaml.devices[2]``.
    """

    def __init__(self, content: object, where: str) -> None:
        if not isinstance(content, Mapping):
            raise InputError(f"{where}: expected a mapping, got {kind_of(content)}")
        self.where = where
        self._content: Mapping[Any, Any] = content
        self._read: set[Any] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.check_all_read()

    def check_all_read(self) -> None:
        """Raise InputError if the mapping has keys that were not asked for."""
        unknown = sorted(str(key) for key in self._content if key not in self._read)
        if unknown:
            known = ", ".join(sorted(str(key) for key in self._read))
            raise InputError(f"{self.where}: unknown keys {unknown}; known are: {known}")

    def ignore_rest(self) -> None:
        """Accept every remaining key: for files whose format belongs to others."""
        self._read.update(self._content)

    def mentions(self, name: str) -> bool:
        """Return whether there is such a key, without reading it."""
        return name in self._content

    def has(self, name: str) -> bool:
        """Return whether the field is present and not null."""
        self._read.add(name)
        return self._content.get(name) is not None

    def states(self, name: str) -> bool:
        """Return whether the field is present, be it null."""
        self._read.add(name)
        return name in self._content

    def content(self) -> dict[str, Any]:
        """Return all fields, null ones too, and count them as read."""
        self._read.update(self._content)
        return dict(self._content)

    def unread(self) -> dict[str, Any]:
        """Return the fields that nobody asked for yet."""
        return {key: value for key, value in self._content.items() if key not in self._read}

    def text(self, name: str, default: object = MISSING) -> str:
        """Return a non-empty string of printable characters."""
        return self.checked(name, TEXT, default)  # type: ignore[no-any-return]

    def flag(self, name: str, default: object = MISSING) -> bool:
        """Return true or false."""
        return self.checked(name, FLAG, default)  # type: ignore[no-any-return]

    def choice(self, name: str, choices: tuple[str, ...], default: object = MISSING) -> str:
        """Return one of the given strings."""
        return self.checked(name, one_of(choices), default)  # type: ignore[no-any-return]

    def integer(self, name: str, default: object = MISSING, *, least: int = 1) -> int:
        """Return a whole number that is at least ``least``."""
        return self.checked(name, whole(least), default)  # type: ignore[no-any-return]

    def number(self, name: str, default: object = MISSING, *, positive: bool = True) -> float:
        """Return a finite number, above zero or (``positive=False``) at least zero.

        What is above zero but next to nothing is refused where times or rates are divided by it.
        """
        return float(self.checked(name, POSITIVE if positive else NOT_NEGATIVE, default))

    def signed(self, name: str) -> float:
        """Return a finite number of either sign."""
        return float(self.checked(name, FINITE))

    def fraction(self, name: str, default: object = MISSING) -> float:
        """Return a number above 0 and at most 1."""
        return float(self.checked(name, FRACTION, default))

    def items(self, name: str, default: object = MISSING) -> list[Any]:
        """Return a list, whatever it holds."""
        return list(self.checked(name, LIST, default))

    def texts(self, name: str, default: object = MISSING) -> tuple[str, ...]:
        """Return a list of non-empty strings as a tuple."""
        return self.checked(name, TEXTS, default)  # type: ignore[no-any-return]

    def numbers(self, name: str, default: object = MISSING) -> tuple[float, ...]:
        """Return a list of finite numbers as a tuple."""
        return self.checked(name, NUMBERS, default)  # type: ignore[no-any-return]

    def value(self, name: str, default: object = MISSING) -> Any:
        """Return a field whatever it holds."""
        return self.checked(name, VALUE, default)

    def fields(self, name: str) -> "Fields":
        """Return a nested mapping as Fields of its own."""
        return Fields(self.value(name), f"{self.where}.{name}")

    def each(self, name: str, default: object = MISSING) -> list["Fields"]:
        """Return a list of mappings, each as Fields that know their index."""
        listed = self.items(name, default)
        return [Fields(item, f"{self.where}.{name}[{i}]") for i, item in enumerate(listed)]

    def names(self) -> list[str]:
        """Return the keys of a mapping whose keys are free, and count them as read."""
        for key in self._content:
            if not isinstance(key, str):
                raise InputError(f"{self.where}: expected names as keys, got {kind_of(key)}")
        self._read.update(self._content)
        return list(self._content)

    def checked(self, name: str, rule: Rule, default: object = MISSING) -> Any:
        """Return a field that follows a rule, or the default where it is missing or null."""
        self._read.add(name)
        value = self._content.get(name)
        if value is None:
            if default is MISSING:
                raise InputError(
                    f"{self.where}.{name}: expected {rule.expected}, but it is missing"
                )
            value = default
        elif not rule.accept(value):
            raise rule.refused(f"{self.where}.{name}", value)
        return rule.convert(value)

    def rows(self, name: str, rule: Rule) -> list[Any]:
        """Return a list whose items follow a rule each."""
        items = self.items(name)
        for index, value in enumerate(items):
            if not rule.accept(value):
                raise rule.refused(f"{self.where}.{name}[{index}]", value)
        return list(map(rule.convert, items))


def is_text(value: object) -> bool:
    """Return whether the value is a non-empty string without control characters."""
    return isinstance(value, str) and value != "" and value.isprintable()


def is_finite(value: object) -> bool:
    """Return whether the value is a finite number of sane size, and not a truth value."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= LARGEST_NUMBER and math.isfinite(value)


def is_number(value: object, *, positive: bool) -> bool:
    """Return whether the value is a finite number above zero, or at least zero."""
    least = limits.LEAST_POSITIVE if positive else 0
    return is_finite(value) and value >= least  # type: ignore[operator]


def whole(least: int) -> Rule:
    """Return the rule of whole numbers of at least ``least``."""
    return Rule(
        f"a whole number of at least {least}",
        lambda value: type(value) is int and least <= value <= LARGEST_NUMBER,
    )


def one_of(choices: tuple[str, ...]) -> Rule:
    """Return the rule of the given strings."""
    return Rule(
        "one of " + ", ".join(choices), lambda value: isinstance(value, str) and value in choices
    )


def _list_of(noun: str, accept: Callable[[object], bool], convert: Callable[[Any], Any]) -> Rule:
    return Rule(
        f"a list of {noun}",
        lambda value: isinstance(value, list | tuple) and all(map(accept, value)),
        lambda value: tuple(map(convert, value)),
    )


TEXT = Rule("a text", is_text)
FLAG = Rule("true or false", lambda value: isinstance(value, bool))
POSITIVE = Rule(
    "a positive number",
    lambda value: is_number(value, positive=True),
    float,
    f" of at least {limits.LEAST_POSITIVE:g}",
)
NOT_NEGATIVE = Rule("a number of at least 0", lambda value: is_number(value, positive=False), float)
FINITE = Rule("a finite number", is_finite, float)
FRACTION = Rule(
    "a number above 0 and at most 1",
    lambda value: is_number(value, positive=True) and value <= 1,
    float,
)
LIST = Rule("a list", lambda value: isinstance(value, list))
TEXTS = _list_of("texts", is_text, str)
NUMBERS = _list_of("numbers", is_finite, float)
VALUE = Rule("a value", lambda value: value is not None)


def check_header(fields: Fields, schema: str, version: int) -> None:
    """Raise InputError unless the mapping names this schema and version."""
    found_schema = fields.text("schema")
    if found_schema != schema:
        raise InputError(f"{fields.where}.schema: expected {schema}, got {kind_of(found_schema)}")
    found_version = fields.integer("version")
    if found_version != version:
        raise InputError(
            f"{fields.where}.version: expected {version}, got {found_version}; "
            "the file was written by another version of llmpq"
        )

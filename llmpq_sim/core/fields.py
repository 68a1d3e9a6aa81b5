"""Strict reader of mappings: each field by name and kind, and no field left unread."""

import math
from collections.abc import Callable, Mapping
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

    def has(self, name: str) -> bool:
        """Return whether the field is present and not null."""
        self._read.add(name)
        return self._content.get(name) is not None

    def text(self, name: str, default: object = MISSING) -> str:
        """Return a non-empty string of printable characters."""
        return self._checked(name, default, "a text", is_text)  # type: ignore[no-any-return]

    def flag(self, name: str, default: object = MISSING) -> bool:
        """Return true or false."""
        return self._checked(name, default, "true or false", lambda v: isinstance(v, bool))  # type: ignore[no-any-return]

    def choice(self, name: str, choices: tuple[str, ...], default: object = MISSING) -> str:
        """Return one of the given strings."""
        expected = "one of " + ", ".join(choices)
        return self._checked(name, default, expected, lambda v: isinstance(v, str) and v in choices)  # type: ignore[no-any-return]

    def integer(self, name: str, default: object = MISSING, *, least: int = 1) -> int:
        """Return a whole number that is at least ``least``."""
        expected = f"a whole number of at least {least}"
        accept = lambda v: type(v) is int and least <= v <= LARGEST_NUMBER  # noqa: E731
        return self._checked(name, default, expected, accept)  # type: ignore[no-any-return]

    def number(self, name: str, default: object = MISSING, *, positive: bool = True) -> float:
        """Return a finite number, above zero or (``positive=False``) at least zero.

        What is above zero but next to nothing is refused where times or rates are divided by it.
        """
        expected = "a positive number" if positive else "a number of at least 0"
        if positive and is_number(self._content.get(name), positive=False):
            tiny = 0 < self._content[name] < limits.LEAST_POSITIVE
            expected += f" of at least {limits.LEAST_POSITIVE:g}" if tiny else ""
        accept = lambda v: is_number(v, positive=positive)  # noqa: E731
        return float(self._checked(name, default, expected, accept))

    def signed(self, name: str) -> float:
        """Return a finite number of either sign."""
        return float(self._checked(name, MISSING, "a finite number", is_finite))

    def fraction(self, name: str, default: object = MISSING) -> float:
        """Return a number above 0 and at most 1."""
        accept = lambda v: is_number(v, positive=True) and v <= 1  # noqa: E731
        return float(self._checked(name, default, "a number above 0 and at most 1", accept))

    def items(self, name: str, default: object = MISSING) -> list[Any]:
        """Return a list, whatever it holds."""
        return list(self._checked(name, default, "a list", lambda v: isinstance(v, list)))

    def texts(self, name: str, default: object = MISSING) -> tuple[str, ...]:
        """Return a list of non-empty strings as a tuple."""
        accept = lambda v: isinstance(v, list | tuple) and all(is_text(i) for i in v)  # noqa: E731
        return tuple(self._checked(name, default, "a list of texts", accept))

    def numbers(self, name: str, default: object = MISSING) -> tuple[float, ...]:
        """Return a list of finite numbers as a tuple."""
        accept = lambda v: isinstance(v, list | tuple) and all(is_finite(i) for i in v)  # noqa: E731
        return tuple(float(i) for i in self._checked(name, default, "a list of numbers", accept))

    def value(self, name: str, default: object = MISSING) -> Any:
        """Return a field whatever it holds."""
        return self._checked(name, default, "a value", lambda v: v is not None)

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

    def _checked(
        self, name: str, default: object, expected: str, accept: Callable[[Any], bool]
    ) -> Any:
        self._read.add(name)
        value = self._content.get(name)
        if value is None:
            if default is MISSING:
                raise InputError(f"{self.where}.{name}: expected {expected}, but it is missing")
            return default
        if not accept(value):
            raise InputError(f"{self.where}.{name}: expected {expected}, got {kind_of(value)}")
        return value


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

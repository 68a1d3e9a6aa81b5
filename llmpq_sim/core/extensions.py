"""Extensions that installed packages offer by entry points.

A package offers one in its ``pyproject.toml``::

    [project.entry-points."llmpq.baselines"]
    my-planner = "my_package.planning:plans"
"""

import sys
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from llmpq_sim.core.errors import InputError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint


@dataclass(frozen=True)
class ExtensionPoint:
    """A kind of thing that packages may add.

    Attributes:
        group: of entry points.
        noun: what messages call one of them.
    """

    group: str
    noun: str

    def names(self) -> tuple[str, ...]:
        """Return the names of all that is offered, in alphabetical order; nothing is loaded.

        Raises:
            InputError: two packages offer different things by one name.
        """
        return tuple(sorted(self._points()))

    def load(self, name: str) -> Any:
        """Return what is offered by a name.

        Raises:
            InputError: nothing is, or the package cannot be imported.
        """
        points = self._points()
        if name not in points:
            raise InputError(
                f"expected an installed {self.noun} ({', '.join(self.names())}), got {name!r}"
            )
        try:
            return points[name].load()
        except ModuleNotFoundError as error:
            raise InputError(
                f"{self.where(name)} needs the module {error.name}, which is not installed"
            ) from error
        except Exception as error:  # whatever the module of another does when it is imported
            raise InputError(
                f"{self.where(name)} cannot be loaded from {points[name].value}: "
                f"{type(error).__name__}: {error}; repair or uninstall the package"
            ) from error

    def where(self, name: str) -> str:
        """Return what messages call one that is offered: its name and its package."""
        return f"{self.noun} {name!r} of {_package(self._points()[name])}"

    def unfit(self, name: str, expected: str, got: object) -> InputError:
        """Return the error that an entry point names something else than expected."""
        value = self._points()[name].value
        return InputError(
            f"{self.where(name)}: expected {expected} at {value}, got {got!r:.80}; repair or "
            "uninstall the package"
        )

    def _points(self) -> "dict[str, EntryPoint]":
        return _points(self.group, self.noun, tuple(sys.path))


@lru_cache(maxsize=16)
def _points(group: str, noun: str, path: tuple[str, ...]) -> "dict[str, EntryPoint]":  # noqa: ARG001
    """Return the entry points by name; to look through all packages of a path takes a while."""
    from importlib.metadata import entry_points  # noqa: PLC0415 - slow to load

    points: dict[str, EntryPoint] = {}
    for point in entry_points(group=group):
        known = points.setdefault(point.name, point)
        if known.value != point.value:
            raise InputError(
                f"{noun} {point.name!r} is offered twice, by {_package(known)} ({known.value}) and "
                f"{_package(point)} ({point.value}); uninstall one of them"
            )
    return points


def _package(point: "EntryPoint") -> str:
    return point.dist.name if point.dist else "an unknown package"

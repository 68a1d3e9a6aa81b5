"""Typer commands whose options come in groups: a frozen dataclass for each group.

A field of a group is an option, annotated as Typer wants it; the first line of the docstring is
the heading under which help lists them. A command takes groups, and single options beside them.
"""

import inspect
from collections.abc import Callable
from copy import copy
from dataclasses import MISSING, Field, fields, is_dataclass
from functools import wraps
from operator import getitem
from typing import Annotated, Any, get_args

import typer

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.limits import check_options

Command = Callable[..., None]


def grouped(function: Command) -> Command:
    """Return a Typer command that calls a function with instances of its option groups.

    Raises:
        ValueError: two groups have an option of the same name.
    """
    groups: dict[str, type[Any]] = {}
    parameters: list[inspect.Parameter] = []
    for parameter in inspect.signature(function).parameters.values():
        kind = parameter.annotation
        if isinstance(kind, type) and is_dataclass(kind):
            groups[parameter.name] = kind
            parameters += [_parameter(each, heading_of(kind)) for each in fields(kind)]
        else:
            parameters.append(parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY))

    @wraps(function)
    def command(**values: Any) -> None:
        check_options(values)
        made = {
            name: kind(**{each.name: values.pop(each.name) for each in fields(kind)})
            for name, kind in groups.items()
        }
        function(**made, **values)

    command.__annotations__ = {}  # Typer reads the signature where there are none
    command.__dict__["__signature__"] = inspect.Signature(parameters)
    return command


def heading_of(group: type[Any]) -> str:
    """Return the heading of an option group in help: the first line of its docstring."""
    return inspect.cleandoc(group.__doc__ or "").split("\n", 1)[0].rstrip(".")


def check_not_given(context: typer.Context, groups: tuple[type[Any], ...], hint: str) -> None:
    """Check that no option of some groups was given.

    Args:
        context: of the command at work.
        groups: whose options have no meaning here.
        hint: what to do instead.

    Raises:
        InputError: one was given, be it with the value that it has by default.
    """
    names = {each.name for group in groups for each in fields(group)}
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is not None and source.name != "DEFAULT":
            raise InputError(f"{parameter.opts[0]}: {hint}")


def _parameter(each: "Field[Any]", heading: str) -> inspect.Parameter:
    kind, info = get_args(each.type)
    info = copy(info)
    info.rich_help_panel = heading
    return inspect.Parameter(
        each.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=inspect.Parameter.empty if each.default is MISSING else each.default,
        annotation=getitem(Annotated, (kind, info)),
    )

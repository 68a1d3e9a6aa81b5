"""Commands made of option groups: what Typer sees, and what the function is called with."""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import pytest
import typer

import cli
from llmpq_sim.api import QualityOptions, ServingOptions, TraceOptions
from llmpq_sim.commands.option_groups import check_not_given, grouped, heading_of
from llmpq_sim.commands.options import SchedulerOptions, SloOptions, TraceShape, TraceSource
from llmpq_sim.commands.search import QualityLimits
from llmpq_sim.core.errors import InputError
from runtimes.base import RuntimeOptions
from runtimes.commands.demo import DemoOptions
from runtimes.commands.deploy import StageOptions


@dataclass(frozen=True)
class Size:
    """How large it is.

    More that help does not show.
    """

    width: Annotated[int, typer.Option("--wide", help="Across.")]
    way: Annotated[Literal["up", "down"], typer.Option(help="Which way.")] = "up"


@dataclass(frozen=True)
class Look:
    """How it looks."""

    colour: Annotated[str | None, typer.Option(help="Of it.")] = None


def called_with(*arguments: str) -> dict[str, Any]:
    """Return what a command with both groups was called with."""
    seen: dict[str, Any] = {}

    def draw(
        context: typer.Context,
        size: Size,
        look: Look,
        seed: Annotated[int, typer.Option(help="Of draws.")] = 3,
    ) -> None:
        """Draw."""
        check_not_given(context, (Look,), "not today")
        seen.update(size=size, look=look, seed=seed)

    app = typer.Typer()
    app.command()(grouped(draw))
    app(list(arguments), standalone_mode=False)
    return seen


def test_the_function_gets_instances_with_what_was_given_or_the_defaults() -> None:
    assert called_with("--wide", "4") == {"size": Size(4), "look": Look(), "seed": 3}
    seen = called_with("--wide", "4", "--way", "down", "--seed", "9")
    assert (seen["size"], seen["seed"]) == (Size(4, "down"), 9)


def test_an_option_without_a_default_is_required() -> None:
    with pytest.raises(Exception, match="Missing parameter: width"):
        called_with("--way", "up")


def test_an_option_counts_as_given_even_with_its_default_value() -> None:
    with pytest.raises(InputError, match=r"^--colour: not today$"):
        called_with("--wide", "1", "--colour", "")


def test_two_groups_with_an_option_of_one_name_are_a_fault() -> None:
    def twice(one: Size, other: Size) -> None:
        """Take the same options twice."""

    with pytest.raises(ValueError, match="duplicate parameter name"):
        grouped(twice)


def test_the_heading_is_the_first_line_of_the_docstring() -> None:
    assert heading_of(Size) == "How large it is"


def names_and_defaults(kind: Any) -> dict[str, Any]:
    return {each.name: each.default for each in fields(kind)}


@pytest.mark.parametrize(
    ("groups", "record", "others"),
    [
        ((TraceSource, TraceShape), TraceOptions, {"seed"}),
        ((SchedulerOptions, SloOptions), ServingOptions, {"attainment"}),
        ((QualityLimits,), QualityOptions, set()),
        ((StageOptions,), RuntimeOptions, set()),
    ],
)
def test_option_groups_have_the_fields_of_the_records_they_become(
    groups: tuple[Any, ...], record: Any, others: set[str]
) -> None:
    options: dict[str, Any] = {}
    for group in groups:
        options |= names_and_defaults(group)
    wanted = names_and_defaults(record)
    assert set(wanted) - set(options) == others
    assert {name: wanted[name] for name in options} == options


def test_the_options_of_a_demo_are_its_settings() -> None:
    from runtimes.demo.demo import DemoSettings  # noqa: PLC0415 - brings PyTorch

    names = [each.name for each in fields(DemoOptions)]
    assert names == [each.name for each in fields(DemoSettings)]


COMMANDS = typer.main.get_command(cli.app)


@pytest.mark.parametrize("name", sorted(COMMANDS.commands))  # type: ignore[attr-defined]
def test_each_command_has_an_example_that_it_understands(name: str) -> None:
    command = COMMANDS.commands[name]  # type: ignore[attr-defined]
    _, example = command.epilog.split("\n")
    program, called, *arguments = example.split()
    assert (program, called) == ("llmpq", name)
    command.make_context(name, arguments)


@pytest.mark.parametrize("name", sorted(COMMANDS.commands))  # type: ignore[attr-defined]
def test_each_option_has_a_sentence_of_help(name: str) -> None:
    for parameter in COMMANDS.commands[name].params:  # type: ignore[attr-defined]
        assert parameter.help, parameter.name
        assert parameter.help[0].isupper() or parameter.help.startswith(("cpu", "hqq", "models"))
        assert parameter.help.endswith((".", ")"))

"""Help in groups: of the commands by what they are for, of options by what they say."""

from collections.abc import Iterable
from typing import Any

from typer.core import TyperCommand, TyperGroup

from llmpq_sim.commands.interruption import Interrupted

COLUMN_GAP = 6
"""Blanks beside the names of a list of commands."""


class GroupedCommand(TyperCommand):
    """A command whose help lists options under the heading of their group."""

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments and each group of options."""
        rows: dict[str, list[tuple[str, str]]] = {}
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None:
                is_argument = parameter.param_type_name == "argument"
                heading = getattr(parameter, "rich_help_panel", None)
                rows.setdefault("Arguments" if is_argument else heading or "Options", []).append(
                    record
                )
        _write_sections(formatter, sorted(rows.items(), key=lambda row: row[0] != "Arguments"))

    def format_epilog(self, _ctx: Any, formatter: Any) -> None:
        """Write the example as it is, so that it can be pasted."""
        _write_plainly(formatter, self.epilog)


class GroupedCommands(TyperGroup):
    """Commands in groups; an interruption of one says what is kept."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command.

        Raises:
            Interrupted: it was.
        """
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as interruption:
            raise Interrupted(interruption) from interruption

    def format_commands(self, _ctx: Any, formatter: Any) -> None:
        """Write each group of commands with what they do."""
        rows: dict[str, list[tuple[str, str]]] = {}
        longest = max(map(len, self.commands))
        for name, command in self.commands.items():
            heading = getattr(command, "rich_help_panel", None) or "Commands"
            said = command.get_short_help_str(formatter.width - COLUMN_GAP - longest)
            rows.setdefault(heading, []).append((name.ljust(longest), said))
        _write_sections(formatter, rows.items())

    def format_epilog(self, _ctx: Any, formatter: Any) -> None:
        """Write what exit codes mean, as it is."""
        _write_plainly(formatter, self.epilog)


def _write_sections(formatter: Any, sections: Iterable[tuple[str, list[tuple[str, str]]]]) -> None:
    for heading, rows in sections:
        with formatter.section(heading):
            formatter.write_dl(rows)


def _write_plainly(formatter: Any, text: str | None) -> None:
    if text:
        formatter.write_paragraph()
        formatter.write(text.rstrip() + "\n")

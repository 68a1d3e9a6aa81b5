"""The command that writes a plan without a search: ``llmpq plan``."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from llmpq_sim.commands.option_groups import grouped
from llmpq_sim.commands.options import BatchOptions, JsonFlag
from llmpq_sim.commands.search import QualityLimits, SearchInput
from llmpq_sim.commands.split_options import DecidedSplit, MicroBatchOptions
from llmpq_sim.core.errors import InputError


@dataclass(frozen=True)
class WrittenPlan:
    """What is written."""

    out: Annotated[Path, typer.Option(help="Where the plan is written.")] = Path("plan.json")
    force: Annotated[bool, typer.Option("--force", help="Overwrite the plan that is there.")] = (
        False
    )
    as_json: JsonFlag = False

    def check(self) -> None:
        """Check that the plan may be written.

        Raises:
            InputError: it cannot be, or another plan is there.
        """
        from llmpq_sim.io.files import check_writable

        check_writable(self.out)
        if self.out.exists() and not self.force:
            raise InputError(
                f"{self.out} exists already: --force overwrites it, --out writes another file"
            )


@grouped
def plan(
    *,
    asked: SearchInput,
    split: DecidedSplit,
    batch: BatchOptions,
    cuts: MicroBatchOptions,
    limits: QualityLimits,
    output: WrittenPlan,
) -> None:
    """Write the plan you have in mind, without a search, and what it would do."""
    from llmpq_sim.api import plan_split
    from llmpq_sim.io.locks import locked
    from llmpq_sim.report.progress import native_output_on_stderr

    output.check()
    with locked(output.out), native_output_on_stderr():
        planned = plan_split(
            split.split(),
            model=asked.read(),
            cluster=asked.cluster,
            batch=batch.batch,
            prompt_tokens=batch.prompt_tokens,
            output_tokens=batch.outputs,
            rows=cuts.rows(),
            quality=limits.options(),
            formats=asked.formats,
            kernels=asked.kernels,
            profiles=asked.profile or (),
        )
        planned.save(output.out)
    from llmpq_sim.commands.search import show_planned

    show_planned(planned, output.out, as_json=output.as_json)

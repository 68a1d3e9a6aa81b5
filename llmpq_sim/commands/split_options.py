"""Option groups of layers that the user has decided on."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from llmpq_sim.core.errors import InputError

if TYPE_CHECKING:
    from llmpq_sim.api import Rows, Split

DeviceOrder = Annotated[
    str | None,
    typer.Option(help="Devices that --layers is about, as a,b,c; default: the cluster's order."),
]
LayerFormats = Annotated[
    str | None,
    typer.Option(help="Format of all layers, or a file: a format a line, or 40 x int4."),
]


@dataclass(frozen=True)
class SplitOptions:
    """Layers that stay where you say."""

    layers: Annotated[
        str | None,
        typer.Option(help="Layers of each device, as 40,20,20; 0 leaves one out."),
    ] = None
    device_order: DeviceOrder = None
    layer_formats: LayerFormats = None

    def split(self, *, resume: bool) -> "Split | None":
        """Return the split that is asked for, None where none is.

        Raises:
            InputError: options do not go together.
        """
        from llmpq_sim.api import Split

        if self.layers is None:
            for option, given in (
                ("--device-order", self.device_order),
                ("--layer-formats", self.layer_formats),
            ):
                if given is not None:
                    raise InputError(f"{option}: give --layers as well")
            return None
        if resume:
            raise InputError("--resume: a search with --layers keeps no checkpoint; leave it out")
        return Split(self.layers, self.device_order, self.layer_formats)


@dataclass(frozen=True)
class DecidedSplit:
    """Where layers are."""

    layers: Annotated[
        str, typer.Option(help="Layers of each device, as 40,20,20; 0 leaves one out.")
    ]
    device_order: DeviceOrder = None
    layer_formats: LayerFormats = None

    def split(self) -> "Split":
        """Return the split that is asked for."""
        from llmpq_sim.api import Split

        return Split(self.layers, self.device_order, self.layer_formats)


@dataclass(frozen=True)
class MicroBatchOptions:
    """How the batch is cut; default: the fastest way."""

    prefill_micro_batch: Annotated[
        int | None, typer.Option(help="Prompts that go through a stage at once.")
    ] = None
    decode_micro_batch: Annotated[
        int | None, typer.Option(help="Requests that are decoded at once.")
    ] = None
    groups_in_flight: Annotated[
        int | None, typer.Option(help="Groups of requests that are under way at a time.")
    ] = None
    prefill_chunk_tokens: Annotated[
        int | None, typer.Option(help="Prompt tokens that go through a stage at once.")
    ] = None

    def rows(self) -> "Rows":
        """Return the micro-batches that are asked for."""
        from llmpq_sim.api import Rows

        return Rows(**vars(self))

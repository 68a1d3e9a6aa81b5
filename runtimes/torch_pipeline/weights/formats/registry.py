"""Registry of the weight formats that the runtime stores."""

from collections.abc import Iterable

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.formats import COMMON_FORMATS, format_named
from runtimes.torch_pipeline.weights.formats.base import StoredFormat
from runtimes.torch_pipeline.weights.formats.float4 import MxFp4, NvFp4
from runtimes.torch_pipeline.weights.formats.float8 import Fp8, Fp8Block
from runtimes.torch_pipeline.weights.formats.int3 import Int3
from runtimes.torch_pipeline.weights.formats.int4 import Int4
from runtimes.torch_pipeline.weights.formats.int4_zero import INT4_G32, INT4_G128
from runtimes.torch_pipeline.weights.formats.int8 import Int8
from runtimes.torch_pipeline.weights.formats.int_planes import INT2, INT5, INT6
from runtimes.torch_pipeline.weights.formats.unquantized import BF16, FP16, FP32

STORED_FORMATS: dict[str, StoredFormat] = {
    each.record.name: each
    for each in (
        Int8(),
        Int4(),
        Int3(),
        Fp8(),
        Fp8Block(),
        MxFp4(),
        NvFp4(),
        INT4_G128,
        INT4_G32,
        INT2,
        INT5,
        INT6,
        FP16,
        BF16,
        FP32,
    )
}
"""By name; fp32 is no format of plans."""

QUANTIZED_FORMATS = tuple(name for name, each in STORED_FORMATS.items() if each.record.is_quantized)
USUAL_FORMATS = tuple(name for name in QUANTIZED_FORMATS if name in COMMON_FORMATS)
"""What is measured and profiled unless others are named."""


def stored_format(name: str, where: str = "weight format") -> StoredFormat:
    """Return the format of this name, fp32 among them.

    Args:
        name: of the format.
        where: what said so, for the error.

    Raises:
        InputError: there is none, or the planner alone knows it.
    """
    if name not in STORED_FORMATS:
        check_stored([name], where)
    return STORED_FORMATS[name]


def check_stored(names: Iterable[str], where: str) -> None:
    """Check that the runtime stores all formats of a plan.

    Raises:
        InputError: one is unknown, or the planner alone knows it.
    """
    for name in names:
        if format_named(name, where).name not in STORED_FORMATS:
            raise InputError(
                f"{where}: the torch runtime stores {', '.join(QUANTIZED_FORMATS)} and 16 bits; "
                f"{name} is planned only, leave it out of --formats"
            )

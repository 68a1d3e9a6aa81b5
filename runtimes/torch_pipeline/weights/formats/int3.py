"""The format int3: codes in two bit planes, a scale and a zero for 64 weights."""

from collections.abc import Mapping

from torch import Tensor

from llmpq_sim.core.formats import FORMATS
from runtimes.torch_pipeline.weights.formats.affine import AffineFormat
from runtimes.torch_pipeline.weights.formats.int3_planes import pack_planes, unpack_planes
from runtimes.torch_pipeline.weights.formats.stored_format import Tensors


class Int3(AffineFormat):
    """``two_bit`` (N, K/4) and ``one_bit`` (N, K/8), uint8, as in int3_planes.py, and ``affine``.

    It has no fused kernel.
    """

    record = FORMATS["int3"]

    def packed_codes(self, codes: Tensor) -> Tensors:
        """Return both planes."""
        two_bit, one_bit = pack_planes(codes)
        return {"two_bit": two_bit, "one_bit": one_bit}

    def unpacked_codes(self, stored: Mapping[str, Tensor], rows: slice) -> Tensor:
        """Return the codes of both planes."""
        return unpack_planes(stored["two_bit"][rows], stored["one_bit"][rows])

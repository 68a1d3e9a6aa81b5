"""Point of a profile: one measurement, and the key under which it is kept."""

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Point:
    """One thing to be timed; numbers that say nothing about it are 0, texts empty.

    Attributes:
        op: ``gemm``, ``attention``, ``experts``, ``layer``, ``embedding``, ``head``, ``visit``,
            ``served`` or ``link``.
        phase: ``prefill`` or ``decode``; ``any`` of a matrix product.
        quant: weight format.
        model: for the sake of which model it is measured.
        kernel: ``fused`` decodes weights within the product, ``dense`` before it; of a served
            step the end of the model, ``first`` or ``last``, and ``-dense`` where all weights are
            decoded beforehand.
        m, n, k: tokens, output and input features; of experts tokens, inner size and width.
        batch, seq: sequences, and prompt or context tokens of each.
        heads, kv_heads, head_dim, kv_bits: of attention.
        window: tokens that are attended to, 0 for all.
        experts, chosen: experts, and how many a token goes through.
        layers: decoder layers among which the time was shared.
        bytes: of a message.
    """

    op: str
    phase: str = ""
    quant: str = ""
    model: str = ""
    kernel: str = ""
    m: int = 0
    n: int = 0
    k: int = 0
    batch: int = 0
    seq: int = 0
    heads: int = 0
    kv_heads: int = 0
    head_dim: int = 0
    kv_bits: int = 0
    window: int = 0
    experts: int = 0
    chosen: int = 0
    layers: int = 0
    bytes: int = 0

    @property
    def tokens(self) -> int:
        """Tokens that are computed at once."""
        if self.batch and self.phase == "prefill":
            return self.batch * self.seq
        return self.m or self.batch

    @property
    def title(self) -> str:
        """The measurement in a few words."""
        sizes = {
            "gemm": f"{self.quant} {self.kernel} {self.m} x {self.k} x {self.n}",
            "attention": f"{self.phase} {self.batch} x {self.seq} tokens",
            "experts": f"{self.quant} {self.m} x {self.chosen} of {self.experts}",
            "layer": f"{self.quant} {self.phase} {self.batch} x {self.seq} tokens",
            "embedding": f"{self.m} tokens",
            "head": f"{self.m} rows",
            "visit": f"{self.batch} rows",
            "served": f"{self.quant} at the {self.kernel} stage",
            "link": f"{self.bytes} bytes",
        }
        return f"{self.op} {sizes[self.op]}"


KEY_COLUMNS = tuple(column.name for column in fields(Point))

Series = tuple[Point, ...]
"""Points of growing size that share weights or a cache; it ends early where calls get too long."""

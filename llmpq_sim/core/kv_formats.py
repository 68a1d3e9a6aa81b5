"""Formats of the KV cache: the bits of an element, and the noise that rounding it adds."""

from collections.abc import Sequence
from dataclasses import dataclass

from llmpq_sim.core.errors import InputError

PLAIN = "16-bit"
"""The format of a cache that is not quantized, in the type of the activations."""


@dataclass(frozen=True)
class KvFormat:
    """How keys and values are kept.

    Attributes:
        quarter_bits: bits of an element, scales included, in quarters.
        steps: rounding steps of an even grid of as much noise, as of weight formats; None where
            nothing is rounded.
        spellings: other names of it.
    """

    name: str
    quarter_bits: int
    steps: float | None = None
    spellings: tuple[str, ...] = ()

    @property
    def bits(self) -> float:
        """Bits of an element, scales included."""
        return self.quarter_bits / 4

    def token_bytes(self, elements: int) -> int:
        """Return the bytes of the elements that are kept of a token, in whole bytes."""
        return -(-elements * self.quarter_bits // 32)


KV_FORMATS = {
    each.name: each
    for each in (
        KvFormat(PLAIN, 64, spellings=("bf16", "fp16", "f16", "auto")),
        KvFormat("q8_0", 34, steps=130),
        KvFormat("int8", 33, steps=108, spellings=("int8_per_token_head",)),
        KvFormat("fp8", 32, steps=26.4, spellings=("fp8_e4m3",)),
        KvFormat("q4_0", 18, steps=8.1),
    )
}
"""By name. fp8 is E4M3 with one scale for a layer, int8 has a 32-bit scale for a token's head of
128 elements (both vLLM's ``--kv-cache-dtype``); q8_0 and q4_0 are llama.cpp's ``-ctk`` and
``-ctv``, with a 16-bit scale for 32 elements. Steps are of normal numbers, as in formats.py."""


def kv_format_named(name: str, where: str) -> KvFormat:
    """Return the format of this name or spelling.

    Raises:
        InputError: there is none.
    """
    for each in KV_FORMATS.values():
        if name in (each.name, *each.spellings):
            return each
    known = [PLAIN, *KV_FORMATS[PLAIN].spellings, *(each for each in KV_FORMATS if each != PLAIN)]
    raise InputError(f"{where}: expected a KV cache format ({', '.join(known)}), got {name!r}")


def kv_formats_listed(listed: str | Sequence[str] | None, where: str) -> tuple[str, ...]:
    """Return the names of the formats that an option lists, each once; none where it is not given.

    Raises:
        InputError: one is unknown.
    """
    texts = listed.split(",") if isinstance(listed, str) else listed or ()
    names = [kv_format_named(text.strip(), where).name for text in texts]
    return tuple(dict.fromkeys(names))

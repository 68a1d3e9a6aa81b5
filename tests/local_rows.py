"""Rows as ``llmpq profile`` writes them, of a made-up machine whose laws are known."""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import product
from typing import Any

from llmpq_sim.core.machine import Machine
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.units import GIB, MIB, US
from llmpq_sim.latency.costs import elementwise_bytes_per_token
from llmpq_sim.latency.work import attention_sizes, gemm_sizes

TOKENS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 256, 512, 1024)
ROWS = (1, 2, 4, 8, 16, 32)
CONTEXTS = (16, 64, 150, 256, 500, 1000)
PROMPTS = (16, 50, 64, 128, 256, 500)
BATCHES = (1, 2, 4, 8, 16)
LAYERS = {
    "decode": ((1, 64), (1, 500), (2, 150), (4, 100), (8, 300), (16, 150)),
    "prefill": ((1, 32), (1, 100), (2, 64), (4, 50), (1, 500), (4, 200)),
}
MESSAGES = tuple(4**power for power in range(5, 12))

BITS = {"bf16": 16.0, "int8": 8.0, "int4": 4.5, "int3": 3.5}
FUSED = ("int8", "int4")


@dataclass(frozen=True)
class Laws:
    """What the made-up machine's times follow, in seconds, bytes and operations."""

    fixed_s: float = 5e-6
    flops_per_s: float = 400e9
    fused_flops_per_s: float = 100e9
    bytes_per_s: float = 18e9
    decoded_per_s: float = 2e9
    layer_s: float = 250e-6
    moved_per_s: float = 3e9
    step_s: float = 150e-6
    embedding_s: float = 20e-6
    head_s: float = 60e-6
    logits_per_s: float = 2e9
    link_s: float = 70e-6
    link_bytes_per_s: float = 3e9

    def gemm_s(self, name: str, kernel: str, m: float, n: float, k: float) -> float:
        """Return the time of a product: fused, or weights decoded first and multiplied densely."""
        sizes = gemm_sizes(m, n, k)
        moved_s = float(sizes.moved_bytes(BITS[name])) / self.bytes_per_s
        if kernel == "fused":
            return self.fixed_s + max(float(sizes.flops) / self.fused_flops_per_s, moved_s)
        decoding_s = n * k / self.decoded_per_s if name != "bf16" else 0.0
        return self.fixed_s + decoding_s + max(float(sizes.flops) / self.flops_per_s, moved_s)

    def attention_s(self, phase: str, batch: float, seq: float, spec: ModelSpec) -> float:
        """Return the time of attention: arithmetic and then traffic."""
        mixer = spec.only_kind.attention
        sizes = attention_sizes(batch, seq, mixer.heads, mixer.kv_heads, mixer.key_dim)
        terms = sizes.terms(phase, 1)
        flops, moved = float(terms[0]), float(terms[1])
        return self.fixed_s + flops / self.flops_per_s + moved / self.bytes_per_s

    def crossover_of(self, name: str, spec: ModelSpec) -> int | None:
        """Return the fewest tokens at which the dense kernel of a format is the faster on average.

        None if it never is.
        """
        if name not in FUSED:
            return 1
        for m in range(1, TOKENS[-1] + 1):
            ratio = 1.0
            for part in spec.only_kind.linears:
                shape = (part.out_features, part.in_features)
                ratio *= self.gemm_s(name, "dense", m, *shape)
                ratio /= self.gemm_s(name, "fused", m, *shape)
            if ratio <= 1:
                return m
        return None

    def layer_time_s(
        self, name: str, phase: str, batch: float, seq: float, spec: ModelSpec
    ) -> float:
        """Return the time of a whole layer with the kernels of the best crossover."""
        m = batch * seq if phase == "prefill" else batch
        crossover = self.crossover_of(name, spec) if name != "bf16" else 1
        kernel = "dense" if crossover is not None and m >= crossover else "fused"
        products_s = sum(
            self.gemm_s(name, kernel, m, part.out_features, part.in_features)
            for part in spec.only_kind.linears
        )
        moved_s = m * elementwise_bytes_per_token(spec.only_kind) / self.moved_per_s
        return self.layer_s + moved_s + products_s + self.attention_s(phase, batch, seq, spec)


def local_rows(
    spec: ModelSpec,
    laws: Laws,
    formats: Iterable[str] = tuple(BITS),
    tokens: Iterable[int] = TOKENS,
) -> list[dict[str, Any]]:
    """Return every row of a profile."""
    names = tuple(formats)
    return [
        *_gemms(spec, laws, names, tuple(tokens)),
        *_attention(spec, laws),
        *_layers(spec, laws, names),
        *_ends(spec, laws),
        *_links(laws),
    ]


def local_machine() -> Machine:
    """Return the machine that such rows are of."""
    return Machine(
        device="lab",
        torch_device="cpu",
        processor="made up",
        threads=1,
        memory_bytes=3 * GIB + 12345,
        memory_bytes_per_s=20.123456e9,
        flops_per_s=0.45e12,
        multiprocessors=1,
        l2_bytes=32 * MIB,
        runtime_bytes=321 * MIB,
        formats=("bf16", "int8", "int4", "int3"),
        torch_version="2.13.0",
    )


def _row(op: str, time_s: float, **sizes: Any) -> dict[str, Any]:
    origin = {"backend": "torch", "version": "2.13.0", "gpu": "lab"}
    measured = {"latency_us": time_s / US, "spread": 0.01, "repeats": 10}
    return {"op": op, **origin, **sizes, **measured}


def _gemms(
    spec: ModelSpec, laws: Laws, names: tuple[str, ...], tokens: tuple[int, ...]
) -> list[dict[str, Any]]:
    shapes = [(part.out_features, part.in_features) for part in spec.only_kind.linears]
    rows = []
    for name, (n, k) in product(names, shapes):
        for kernel in ("fused", "dense") if name in FUSED else ("dense",):
            for m in tokens:
                time_s = laws.gemm_s(name, kernel, m, n, k)
                rows.append(
                    _row("gemm", time_s, phase="any", quant=name, kernel=kernel, m=m, n=n, k=k)
                )
    n, k = spec.vocab_size, spec.hidden_size
    for m in ROWS:
        time_s = laws.gemm_s("bf16", "dense", m, n, k)
        rows.append(_row("gemm", time_s, phase="any", quant="bf16", kernel="dense", m=m, n=n, k=k))
    return rows


def _attention(spec: ModelSpec, laws: Laws) -> list[dict[str, Any]]:
    mixer = spec.only_kind.attention
    layout = {"heads": mixer.heads, "kv_heads": mixer.kv_heads, "head_dim": mixer.key_dim}
    return [
        _row(
            "attention",
            laws.attention_s(phase, batch, seq, spec),
            phase=phase,
            batch=batch,
            seq=seq,
            kv_bits=16,
            **layout,
        )
        for phase, lengths in (("decode", CONTEXTS), ("prefill", PROMPTS))
        for batch, seq in product(BATCHES, lengths)
    ]


def _layers(spec: ModelSpec, laws: Laws, names: tuple[str, ...]) -> list[dict[str, Any]]:
    return [
        _row(
            "layer",
            laws.layer_time_s(name, phase, batch, seq, spec),
            phase=phase,
            quant=name,
            model=spec.name,
            batch=batch,
            seq=seq,
            layers=4,
        )
        for name in names
        for phase, points in LAYERS.items()
        for batch, seq in points
    ]


def _ends(spec: ModelSpec, laws: Laws) -> list[dict[str, Any]]:
    hidden, vocab = spec.hidden_size, spec.vocab_size
    rows = [
        _row(
            "embedding",
            laws.embedding_s + 4 * m * hidden / laws.moved_per_s,
            m=m,
            n=hidden,
            k=vocab,
        )
        for m in TOKENS
    ]
    for m in ROWS:
        time_s = laws.gemm_s("bf16", "dense", m, vocab, hidden)
        time_s += laws.head_s + 8 * m * vocab / laws.logits_per_s
        rows.append(_row("head", time_s, quant="bf16", m=m, n=vocab, k=hidden))
    return rows + [_row("visit", laws.step_s, batch=batch) for batch in (1, 4, 16)]


def _links(laws: Laws) -> list[dict[str, Any]]:
    return [
        _row("link", laws.link_s + size / laws.link_bytes_per_s, bytes=size) for size in MESSAGES
    ]

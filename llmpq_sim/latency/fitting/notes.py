"""Notes on a local machine profile, in sentences."""

from collections.abc import Iterator, Sequence

from llmpq_sim.core.formats import FORMATS, share_times
from llmpq_sim.core.units import GB, US
from llmpq_sim.latency.fitting.crossover import ALWAYS
from llmpq_sim.latency.fitting.evaluation import FitError
from llmpq_sim.latency.fitting.machine import LocalRows
from llmpq_sim.latency.models import Overhead
from llmpq_sim.latency.profile import DeviceProfile


def local_notes(
    profile: DeviceProfile, rows: LocalRows, of_layers: Sequence[FitError]
) -> tuple[str, ...]:
    """Return what was assumed and found: kernels by tokens, overheads, errors of layers."""
    return (
        *_assumed(profile, rows),
        *_crossovers(profile),
        *_overheads(profile),
        *_trust(of_layers),
    )


def _assumed(profile: DeviceProfile, rows: LocalRows) -> Iterator[str]:
    for name, other in profile.aliases.items():
        if share_times(name, other):
            yield f"{name} and {other} have one table of times."
        else:
            yield f"{name} is priced as {other}: it was not timed."
    if "fp16" not in rows.gemms:
        yield "fp16 follows the data sheet: it was not timed."
    for phase, own in rows.attention.items():
        if not len(own):
            yield f"Attention in {phase} follows the data sheet."


def _crossovers(profile: DeviceProfile) -> Iterator[str]:
    for name in profile.gemms:
        tokens = profile.dense_from_tokens.get(name)
        if tokens is None:
            if FORMATS[name].is_quantized:
                yield f"{name} multiplies by its weights as they are stored."
        elif tokens == ALWAYS:
            yield f"{name} multiplies by decoded weights at all token counts."
        else:
            yield f"{name} multiplies by decoded weights from {tokens:,} tokens on."


def _overheads(profile: DeviceProfile) -> Iterator[str]:
    rate = profile.elementwise_bytes_per_s
    layer = Overhead(profile.layer_overhead_s, 1 / rate if rate else 0.0)
    yield f"A layer takes {_costs(layer, 'activations')} beside its kernels."
    for name, factors in profile.pipeline_factors.items():
        times = " and ".join(f"{factor:.2f} at {tokens:,.0f} tokens" for tokens, factor in factors)
        yield f"In a pipeline a layer in {name} takes as long as alone times {times}."
    if profile.head_overhead is not None:
        yield f"Final norm and sampling take {_costs(profile.head_overhead, 'logits')}."
    if profile.embedding_overhead is not None:
        yield f"The embedding takes {_costs(profile.embedding_overhead, 'activations')}."
    if profile.step_overhead_s:
        yield f"Each visit of a stage takes {profile.step_overhead_s / US:,.0f} us besides."
    if profile.link is not None:
        link = Overhead(profile.link.latency_s, 1 / profile.link.bytes_per_s)
        yield f"A message between two of its stages takes {_costs(link, 'its bytes')}."


def _costs(overhead: Overhead, moved: str) -> str:
    fixed = f"{overhead.fixed_s / US:,.0f} us"
    if not overhead.byte_s:
        return fixed
    return f"{fixed} plus {moved} at {1 / overhead.byte_s / GB:,.1f} GB/s"


def _trust(of_layers: Sequence[FitError]) -> Iterator[str]:
    if not of_layers:
        yield "No whole layer was timed: gaps between kernels are not in the times."
        return
    worst = max(of_layers, key=lambda error: error.p90_ape)
    rows = sum(error.rows for error in of_layers)
    yield (
        f"{rows} whole layers were predicted by models that had not seen them; the worst 90th "
        f"percentile is {worst.p90_ape:.1%}, of {worst.format} in {worst.phase}."
    )

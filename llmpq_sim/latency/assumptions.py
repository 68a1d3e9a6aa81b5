"""Parts of layers that a profile prices by a roofline, because none of their kernels was timed."""

from collections.abc import Iterable, Iterator

from llmpq_sim.core.layers import (
    Attention,
    Experts,
    LatentAttention,
    LayerKind,
    Mixer,
    Recurrent,
)
from llmpq_sim.latency.parts import PHASES, recurrent_name
from llmpq_sim.latency.profile import DeviceProfile


def assumed_parts(
    profile: DeviceProfile, kinds: Iterable[LayerKind], formats: Iterable[str]
) -> tuple[str, ...]:
    """Return sentences on the parts of layers that follow a roofline; see `untimed_parts`."""
    return tuple(
        f"{profile.name}: {part} follows a roofline, because it was not timed."
        for part in untimed_parts(profile, kinds, formats)
    )


def untimed_parts(
    profile: DeviceProfile, kinds: Iterable[LayerKind], formats: Iterable[str]
) -> tuple[str, ...]:
    """Return the parts of layers that follow a roofline in this profile.

    A profile by the data sheet has none: it says already that no kernel was timed.

    Args:
        profile: of a device.
        kinds: the layers.
        formats: weight formats that experts may have.
    """
    if profile.status == "spec":
        return ()
    names = tuple(formats)
    untimed: dict[str, None] = {}
    for kind in kinds:
        untimed |= dict.fromkeys(_untimed_mixers(profile, kind.mixer))
        if isinstance(kind.feed_forward, Experts):
            untimed |= dict.fromkeys(_untimed_experts(profile, names))
    return tuple(untimed)


def _untimed_mixers(profile: DeviceProfile, mixer: Mixer | None) -> Iterator[str]:
    for phase in PHASES:
        if isinstance(mixer, Attention) and mixer.window and phase not in profile.windows:
            yield f"attention within a window in {phase}"
        if isinstance(mixer, LatentAttention) and phase not in profile.latent:
            yield f"latent attention in {phase}"
        if isinstance(mixer, Recurrent):
            name = recurrent_name(mixer.algorithm, phase)
            if name not in profile.recurrent:
                yield f"the recurrence {mixer.algorithm} in {phase}"
            if phase not in profile.convolutions:
                yield f"the convolution of recurrent mixers in {phase}"
    if isinstance(mixer, LatentAttention) and mixer.indexer is not None:
        yield "the indexer of latent attention"


def _untimed_experts(profile: DeviceProfile, formats: tuple[str, ...]) -> Iterator[str]:
    for name in formats:
        if not {name, profile.aliases.get(name, name)} & set(profile.experts):
            yield f"a mixture of experts in {name}"

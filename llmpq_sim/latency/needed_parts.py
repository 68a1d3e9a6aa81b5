"""Profiles without the parts that no layer of a model has."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

from llmpq_sim.core.layers import Attention, Experts, LatentAttention, LayerKind, Recurrent
from llmpq_sim.latency.profile import PART_FIELDS, DeviceProfile


def needed_parts(profile: DeviceProfile, kinds: Iterable[LayerKind]) -> DeviceProfile:
    """Return a profile without models that no layer is priced by; itself where nothing changes.

    Plans of dense models so name the same profile, whatever else was timed on the device. The
    interval of a layer's time is at least as wide as the errors of the parts that are left.
    """
    if not any(getattr(profile, name) for name in PART_FIELDS):
        return profile
    layers = tuple(kinds)
    recurrent = any(isinstance(kind.mixer, Recurrent) for kind in layers)
    needed = {
        "experts": any(isinstance(kind.feed_forward, Experts) for kind in layers),
        "windows": any(isinstance(kind.mixer, Attention) and kind.mixer.window for kind in layers),
        "latent": any(isinstance(kind.mixer, LatentAttention) for kind in layers),
        "convolutions": recurrent,
        "recurrent": recurrent,
    }
    left = [name for name in PART_FIELDS if needed[name] and getattr(profile, name)]
    changes: dict[str, Any] = {name: {} for name in PART_FIELDS if name not in left}
    fractions = {k: v for k, v in profile.part_error_fractions.items() if k in left}
    changed = replace(
        profile,
        part_notes=profile.part_notes if left else (),
        part_error_fractions=fractions,
        error_fraction=max([profile.error_fraction, *fractions.values()]),
        **changes,
    )
    return profile if changed == profile else changed

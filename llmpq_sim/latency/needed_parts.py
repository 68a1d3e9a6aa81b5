"""Profiles without the parts that no layer of a model has."""

from collections.abc import Iterable
from dataclasses import replace

from llmpq_sim.core.layers import Attention, Experts, LatentAttention, LayerKind, Recurrent
from llmpq_sim.latency.profile import DeviceProfile


def needed_parts(profile: DeviceProfile, kinds: Iterable[LayerKind]) -> DeviceProfile:
    """Return a profile without models that no layer is priced by; itself where it has none.

    So plans of dense models name the same profile, whatever else was timed on the device.
    """
    layers = tuple(kinds)
    needed = {
        "experts": any(isinstance(kind.feed_forward, Experts) for kind in layers),
        "windows": any(isinstance(kind.mixer, Attention) and kind.mixer.window for kind in layers),
        "latent": any(isinstance(kind.mixer, LatentAttention) for kind in layers),
    }
    needed["convolutions"] = needed["recurrent"] = any(
        isinstance(kind.mixer, Recurrent) for kind in layers
    )
    idle = [field for field, is_needed in needed.items() if not is_needed]
    notes = profile.part_notes if any(needed.values()) else ()
    if not any(getattr(profile, field) for field in idle) and notes == profile.part_notes:
        return profile
    changes: dict[str, dict[str, object]] = {field: {} for field in idle}
    return replace(profile, part_notes=notes, **changes)  # type: ignore[arg-type]

"""Time of decode attention over a cache of fewer bits than the kernels that were timed read."""

import numpy as np
from numpy.typing import NDArray

from llmpq_sim.core.kv_formats import KV_FORMATS, PLAIN
from llmpq_sim.core.layers import LayerKind, Recurrent
from llmpq_sim.latency.profile import DeviceProfile

FloatArray = NDArray[np.float64]


def with_narrow_cache(
    time_s: FloatArray,
    layer_kind: LayerKind,
    profile: DeviceProfile,
    batch: FloatArray,
    tokens: FloatArray,
) -> FloatArray:
    """Return the time of a kernel that reads a cache of 16 bits, were it of the layer's format.

    What is no longer read is saved at the rate at which 16-bit weights are read, and never more
    than in proportion to the bits: where arithmetic or launches take the time, it stays.

    Args:
        time_s: of the 16-bit kernel.
        layer_kind: the layer.
        profile: of the device.
        batch: sequences.
        tokens: of each context.
    """
    mixer = layer_kind.mixer
    if layer_kind.kv_format == PLAIN or mixer is None or isinstance(mixer, Recurrent):
        return time_s
    share = KV_FORMATS[layer_kind.kv_format].bits / KV_FORMATS[PLAIN].bits
    window = getattr(mixer, "window", None)
    read = np.asarray(tokens, np.float64)
    read = read if window is None else np.minimum(read, window)
    plain_bytes = KV_FORMATS[PLAIN].token_bytes(mixer.cached_elements_per_token)
    saved_bytes = (1 - share) * plain_bytes * np.asarray(batch, np.float64) * read
    saved_s = saved_bytes / profile.gemms["fp16"].base.bytes_per_s
    return np.maximum(time_s - saved_s, share * time_s)

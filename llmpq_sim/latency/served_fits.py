"""How much longer do visits of a real pipeline take than a profile says of their parts?

What both ends of a model have in common belongs to every visit of a stage; the rest to the end.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from llmpq_sim.latency.costs import elementwise_bytes_per_token, embeddings_s, heads_s
from llmpq_sim.latency.kernel_fits import by_format, significant
from llmpq_sim.latency.layer_fits import layer_rows
from llmpq_sim.latency.models import Overhead
from llmpq_sim.latency.overheads import kernels_s
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.latency.rows import Measurements
from llmpq_sim.latency.work import FloatArray
from llmpq_sim.model import ModelSpec
from llmpq_sim.units import US

FIRST, LAST = "first", "last"


def with_served_visits(
    profile: DeviceProfile,
    served: Measurements,
    models: Mapping[str, ModelSpec],
    timed_with: DeviceProfile,
) -> DeviceProfile:
    """Return a profile in which visits take as long as in a real pipeline.

    Args:
        profile: to be changed: its cost of a visit, and of both ends of a model.
        served: decode visits of the first and of the last stage.
        models: the models that rows name.
        timed_with: the profile of the kernels that the rows were timed with, all else included but
            the cost of a visit; ``profile`` itself, unless that is of dense kernels alone.

    Raises:
        InputError: a row names a model that is not known.
    """
    if not len(served):
        return profile
    extra_s: dict[str, list[float]] = {FIRST: [], LAST: []}
    for name, rows in by_format(served).items():
        rest_s = rows.latency_us * US - parts_s(rows, models, name, timed_with)
        for end, seconds in zip(rows.kernel.tolist(), rest_s.tolist(), strict=True):
            extra_s.setdefault(end, []).append(seconds)
    first_s, last_s = (max(0.0, float(np.median(extra_s[end] or [0.0]))) for end in (FIRST, LAST))
    common_s = min(first_s, last_s)
    return replace(
        profile,
        step_overhead_s=significant(common_s),
        embedding_overhead=_raised(profile.embedding_overhead, first_s - common_s),
        head_overhead=_raised(profile.head_overhead, last_s - common_s),
    )


def parts_s(
    rows: Measurements, models: Mapping[str, ModelSpec], format_name: str, profile: DeviceProfile
) -> FloatArray:
    """Return what a profile says of the layers and the end of visits of one format."""
    sizes = layer_rows(rows, models, format_name)
    specs = [models[name] for name in rows.model.tolist()]
    moved = rows.batch * np.asarray([elementwise_bytes_per_token(spec) for spec in specs])
    layer = kernels_s(sizes, profile) + profile.layer_overhead_s + profile.elementwise_s(moved)
    ends = [
        float((embeddings_s if end == FIRST else heads_s)(spec, profile, np.array([batch]))[0])
        for end, spec, batch in zip(rows.kernel.tolist(), specs, rows.batch.tolist(), strict=True)
    ]
    return np.asarray(rows.layers * layer + ends)


def _raised(overhead: Overhead | None, by_s: float) -> Overhead | None:
    """Return an overhead with so much more fixed cost."""
    if by_s <= 0:
        return overhead
    known = overhead or Overhead(0.0, 0.0)
    return Overhead(significant(known.fixed_s + by_s), known.byte_s)

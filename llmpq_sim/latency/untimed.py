"""Times of formats that a profile lacks, from the data sheet of its device."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from llmpq_sim.core.cluster import Cluster, Device
from llmpq_sim.core.formats import COMMON_FORMATS
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.latency.spec import SPEC_ERROR_FRACTION, spec_gemm


def completed_profiles(
    cluster: Cluster, profiles: Mapping[str, DeviceProfile], formats: Sequence[str]
) -> tuple[dict[str, DeviceProfile], list[str]]:
    """Return profiles that have times of formats asked for by name, and a sentence for each change.

    Common formats are left as they are: a device is not given those that its profile lacks.

    Args:
        cluster: whose devices list the formats that they run.
        profiles: by kind of device.
        formats: those that plans may have.
    """
    devices = {member.device.name: member.device for member in cluster.devices}
    completed, sentences = dict(profiles), []
    for kind, device in devices.items():
        profile = profiles[kind]
        missing = [
            name
            for name in formats
            if name in device.formats and name not in (*profile.formats, *COMMON_FORMATS)
        ]
        if missing:
            completed[kind] = _completed(profile, device, missing)
            timed = all(name in profile.experts for name in missing)
            what = "dense products in" if timed else "times of"
            sentences.append(
                f"{kind}: {what} {', '.join(missing)} follow its data sheet, for "
                f"{profile.kernels} has none"
            )
    return completed, sentences


def _completed(profile: DeviceProfile, device: Device, names: Sequence[str]) -> DeviceProfile:
    """Return a profile with data-sheet products of some formats, and as little trust as they."""
    return replace(
        profile,
        gemms={**profile.gemms, **{name: spec_gemm(device, name) for name in names}},
        notes=(*profile.notes, *(f"{name} follows the data sheet: not timed." for name in names)),
        error_fraction=max(profile.error_fraction, SPEC_ERROR_FRACTION),
    )

"""Latency profile of each kind of device: bundled, fitted or from the data sheet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from llmpq_sim.core.cluster import Cluster, Device
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.machine import Machine, machine_path
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.records import from_dict, to_dict
from llmpq_sim.io.devices import load_devices
from llmpq_sim.io.files import read_json, sha256_of, write_json
from llmpq_sim.io.models import bundled_models, load_model
from llmpq_sim.io.resources import bundled_dir, unknown_name
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.latency.spec import spec_profile

if TYPE_CHECKING:
    from llmpq_sim.latency.fitting.fit import FitReport
    from llmpq_sim.latency.fitting.rows import Measurements

SUFFIX = ".json"

SPEC = "spec"
"""The kernel set that stands for data-sheet figures; every device has it."""


def load_profile(path: Path) -> DeviceProfile:
    """Return the profile in a JSON file.

    Raises:
        InputError: it cannot be read or is no profile.
    """
    return from_dict(DeviceProfile, Fields(read_json(path), path.name))


def load_profiles(paths: Sequence[Path]) -> dict[str, DeviceProfile]:
    """Return the user's own profiles by kind of device.

    Raises:
        InputError: a file is no profile, or two are for the same kind.
    """
    profiles: dict[str, DeviceProfile] = {}
    for path in paths:
        profile = load_profile(path)
        if profile.device in profiles:
            raise InputError(f"{path.name}: another profile given is for {profile.device} too")
        profiles[profile.device] = profile
    return profiles


def bundled_profile(device: Device, kernels: str | None) -> DeviceProfile:
    """Return a device's profile for a kernel set, or for its preferred one.

    An engine's name alone, such as ``vllm``, stands for the set of its kernels.

    Raises:
        InputError: the device has no profile for this kernel set.
    """
    chosen, sets = kernels or device.kernels[0], kernel_sets(device)
    if chosen not in sets:
        of_engine = [name for name in sets if name.startswith(f"{chosen}-")]
        if not of_engine:
            raise InputError(
                f"--kernels: {device.name} has no profile for {chosen!r}; it has "
                f"{', '.join(sets)}; a profile of your own is given with --profile"
            )
        chosen = of_engine[0]
    if chosen == SPEC:
        return spec_profile(device)
    return _of(device, _bundled(_folder() / f"{device.profiled_as}.{chosen}{SUFFIX}"))


def kernel_sets(device: Device) -> tuple[str, ...]:
    """Return the kernel sets that a device has a profile for, the preferred one first."""
    prefix = f"{device.profiled_as}."
    ships = sorted(path.name for path in _folder().glob(f"{prefix}*{SUFFIX}"))
    names = [name.removeprefix(prefix).removesuffix(SUFFIX) for name in ships]
    listed = [name for name in device.kernels if name != SPEC]
    return tuple(dict.fromkeys((device.kernels[0], *listed, *names, SPEC)))


def _folder() -> Path:
    return bundled_dir("cluster_profiles") / "profiles"


def _of(device: Device, profile: DeviceProfile) -> DeviceProfile:
    """Return the profile of a kind for a variant of it that has other memory."""
    return profile if profile.device == device.name else replace(profile, device=device.name)


@lru_cache(maxsize=64)
def _bundled(path: Path) -> DeviceProfile:
    """Return a profile that ships, read once: to check its trees takes a while."""
    return load_profile(path)


def cluster_profiles(
    cluster: Cluster, kernels: str | None, own: Mapping[str, DeviceProfile]
) -> dict[str, DeviceProfile]:
    """Return the profile of every kind of device in a cluster, the user's own first.

    Raises:
        InputError: a kind has no profile for the kernel set, or a profile given is for none.
    """
    kinds = {member.device.name: member.device for member in cluster.devices}
    profiled = {*kinds, *(device.profiled_as for device in kinds.values())}
    for kind in own:
        if kind not in profiled:
            raise InputError(
                f"--profile: {kind} is not in {cluster.name}, which has {', '.join(kinds)}"
            )
    chosen: dict[str, DeviceProfile] = {}
    for kind, device in kinds.items():
        given = own.get(kind, own.get(device.profiled_as))
        chosen[kind] = _of(device, given) if given else bundled_profile(device, kernels)
    return chosen


def fit_measurements(
    paths: Sequence[Path],
    device_name: str,
    kernels: str | None,
    seed: int,
    on_progress: Callable[[str], None],
    own_models: Sequence[ModelSpec] = (),
) -> FitReport:
    """Return the profile of a device that files of measurements give.

    Args:
        paths: the rows; a machine file beside the first says what they were measured on.
        device_name: a bundled device, or any name where there is a machine file.
        kernels: name of the kernel set; None takes it from the rows.
        seed: picks what is held out.
        on_progress: called with a sentence before each step.
        own_models: models that rows name, beside bundled ones and folders.

    Raises:
        InputError: the device is unknown, or the files have nothing to fit.
    """
    from llmpq_sim.io.measurements import read_measurements  # noqa: PLC0415 - slow to load
    from llmpq_sim.latency.fitting.fit import fit_profile  # noqa: PLC0415 - slow to load

    devices = load_devices()
    machine = machine_beside(paths[0])
    if machine is None and device_name not in devices:
        raise unknown_name("--device", "a bundled device", device_name, tuple(devices))
    measurements = read_measurements(paths[0])
    for path in paths[1:]:
        measurements = measurements.joined(read_measurements(path))
    if machine is None:
        device = devices[device_name]
    else:
        device = machine.as_device(device_name, machine.formats, kernels or SPEC)
    return fit_profile(
        measurements,
        device,
        kernels,
        seed,
        models=_models_of(measurements, own_models),
        machine=machine,
        on_progress=on_progress,
    )


def _models_of(rows: Measurements, own_models: Sequence[ModelSpec]) -> dict[str, ModelSpec]:
    """Return the models that rows name: given, bundled, or in a folder of this name."""
    models = {model.name: model for model in own_models}
    for name in dict.fromkeys(rows.model.tolist()):
        if name not in models and (name in bundled_models() or (name and Path(name).exists())):
            models[name] = load_model(name)
    return models


def machine_beside(rows: Path) -> Machine | None:
    """Return the machine that a file of rows was measured on, or None where nothing says so.

    Raises:
        InputError: the file beside the rows is not one of ours.
    """
    path = machine_path(rows)
    if not path.exists():
        return None
    return from_dict(Machine, Fields(read_json(path), path.name))


def write_machine(rows: Path, machine: Machine) -> Path:
    """Write a machine's facts beside a file of rows and return where.

    Raises:
        InputError: it cannot be written.
    """
    path = machine_path(rows)
    write_json(path, to_dict(machine))
    return path


def profile_sha256(profile: DeviceProfile) -> str:
    """Return the hash by which plans name a profile."""
    return sha256_of(to_dict(profile))

"""Presets of synthetic workloads, in YAML."""

from pathlib import Path

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields
from llmpq_sim.core.records import from_dict
from llmpq_sim.io.files import read_yaml
from llmpq_sim.io.resources import bundled_dir, bundled_names, is_path, unknown_name
from llmpq_sim.workloads.arrivals import GammaArrivals
from llmpq_sim.workloads.generate import Preset

ENDING = ".yaml"


def preset_names() -> tuple[str, ...]:
    """Return the names of the bundled presets."""
    return bundled_names("traces", "", ENDING)


def load_preset(name: str) -> Preset:
    """Return a bundled preset by name, or one of the user's by path.

    Raises:
        InputError: there is none, or its file says something that cannot be.
    """
    if is_path(name, (ENDING, ".yml")):
        path = Path(name)
    elif name in preset_names():
        path = bundled_dir("traces") / f"{name}{ENDING}"
    else:
        raise unknown_name("--trace", "the name of a workload", name, preset_names())
    return preset_from_dict(read_yaml(path), path.name)


def preset_from_dict(content: object, where: str) -> Preset:
    """Return a preset from a file's content.

    Raises:
        InputError: it says something that cannot be.
    """
    preset = from_dict(Preset, Fields(content, where))
    _check(preset, where)
    return preset


def _check(preset: Preset, where: str) -> None:
    kinds = preset.classes
    if not kinds:
        raise InputError(f"{where}.classes: expected at least one class, got none")
    if len({kind.name for kind in kinds}) < len(kinds):
        raise InputError(f"{where}.classes: expected classes of different names")
    if len({kind.arrivals is None for kind in kinds}) > 1:
        raise InputError(f"{where}.classes: expected arrivals for all classes or for none")
    alone = len(kinds) == 1 and isinstance(kinds[0].arrivals, GammaArrivals)
    if preset.conversations is not None and not alone:
        raise InputError(f"{where}.conversations: expected one class with gamma arrivals")

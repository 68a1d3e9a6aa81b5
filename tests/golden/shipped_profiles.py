"""Recipe of the profiles in cluster_profiles/profiles: ``make profiles`` writes them again.

Those of TensorRT-LLM and vLLM need the shared measurements beside the repository; without them
theirs stay.
"""

from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np

from llmpq_sim.core.cluster import Device
from llmpq_sim.core.formats import COMMON_FORMATS, FORMATS
from llmpq_sim.core.records import to_dict
from llmpq_sim.io.devices import load_devices
from llmpq_sim.io.files import json_text, write_text
from llmpq_sim.io.measurements import read_measurements
from llmpq_sim.io.models import load_model
from llmpq_sim.latency.fitting.fit import FitReport, fit_profile
from llmpq_sim.latency.fitting.rows import Measurements
from llmpq_sim.latency.profile import PART_FIELDS, DeviceProfile
from llmpq_sim.latency.spec import spec_gemm
from llmpq_sim.paper.cases import KERNELS_OF_2023
from tests.golden.kernels_of_2023 import (
    completed_profile,
    derived_profile,
    timed_profile,
)

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ROOT / "cluster_profiles" / "profiles"
ROWS_OF_2023 = ROOT / "cluster_profiles" / "measurements" / "gptq-2023.csv"
SHARED_KERNELS = ROOT / "../shared/data/kernels"

SEED = 0
TIMED_IN_2023 = ("t4", "v100-32g", "p100-12g")
DERIVED_FROM_V100 = ("a100-40g", "a800-80g")
TENSORRT_LLM = {
    "a100-sxm": ("a100_sxm", "trtllm-1.0"),
    "l40s": ("l40s", "trtllm-1.0"),
    "h200-sxm": ("h200_sxm", "trtllm-1.2"),
}
SOURCE_OF_TENSORRT_LLM = (
    "NVIDIA aiconfigurator 0.12.0 and 0.5.0 (Apache-2.0): matrix products of TensorRT-LLM, 16-bit "
    "ones averaged over graph replays, int8 and int4 single readings with a cold cache; attention "
    "of vLLM"
)

VLLM = {
    "h100-sxm": ("vllm-0.24.0", ()),
    "h200-sxm": ("vllm-0.24.0", ("h200_sxm",)),
    "l40s": ("vllm-0.24.0", ("l40s",)),
    "b200-sxm": ("vllm-0.24.0", ()),
    "b60": ("vllm-0.26.0", ()),
}
"""Kernel sets of vLLM, and tables of 16-bit products beside the public ones."""

PART_TABLES = ("moe", "mla", "attention_windows", "linear_attention")
PRODUCT_TABLES = ("gemm_fp8_nvfp4",)
SOURCE_OF_VLLM = (
    "NVIDIA aiconfigurator-core 0.12.0 (Apache-2.0): products, attention and experts of vLLM, "
    "averaged over graph replays; latent attention of SGLang or TensorRT-LLM"
)
OF_PARTS = (*PART_FIELDS, "part_notes", "part_error_fractions")
DATA_SHEET_NOTE = (
    "{} follow the data sheet: assumed to read their packed bytes at the same rate as 16-bit "
    "weights; kernel libraries differ from that by 10-50 %."
)


def profiles_of_2023() -> dict[str, DeviceProfile]:
    """Return the profiles of the kernels LLM-PQ used, by file name."""
    devices, rows = load_devices(), read_measurements(ROWS_OF_2023)
    models = {"opt-30b": load_model("opt-30b")}
    profiles = {name: timed_profile(rows, devices[name], models) for name in TIMED_IN_2023}
    v100 = profiles["v100-32g"]
    profiles["p100-12g"] = completed_profile(profiles["p100-12g"], devices["p100-12g"], v100)
    for name in DERIVED_FROM_V100:
        profiles[name] = derived_profile(v100, devices["v100-32g"], devices[name], profiles["t4"])
    return {f"{name}.{KERNELS_OF_2023}.json": profile for name, profile in profiles.items()}


def report_of_tensorrt_llm(device: str) -> FitReport:
    """Return the report of a fit to the shared measurements of a device."""
    file_name, kernels = TENSORRT_LLM[device]
    rows = read_measurements(SHARED_KERNELS / f"{file_name}.parquet")
    source = SOURCE_OF_TENSORRT_LLM
    return fit_profile(rows, load_devices()[device], kernels, SEED, source=source)


@cache
def shared_rows(name: str) -> Measurements:
    """Return the rows of a shared table."""
    return read_measurements(SHARED_KERNELS / f"{name}.parquet")


def rows_of(device: str, tables: tuple[str, ...]) -> Measurements:
    """Return a device's rows of several tables, 8-bit floats as public tables spell them."""
    spelled = device.replace("-", "_")
    first, *others = (shared_rows(name) for name in tables)
    rows = first.where(first.gpu == spelled)
    for each in others:
        rows = rows.joined(each.where(each.gpu == spelled))
    of_vllm = np.char.lower(rows.backend) == "vllm"
    quant = np.where(of_vllm & (rows.quant == "fp8_w8a8"), "fp8", rows.quant)
    return replace(rows, quant=quant)


def report_of_vllm(device: str) -> FitReport:
    """Return the report of a fit to a device's public tables of vLLM."""
    kernels, more = VLLM[device]
    kind = load_devices()[device]
    rows = rows_of(device, (*PRODUCT_TABLES, *more, *PART_TABLES))
    report = fit_profile(rows, kind, kernels, SEED, source=SOURCE_OF_VLLM)
    return replace(report, profile=with_data_sheet(report.profile, kind))


def report_of_parts(device: str) -> FitReport:
    """Return the report of a fit to a device's tables of parts alone."""
    return fit_profile(rows_of(device, PART_TABLES), load_devices()[device], None, SEED)


def with_data_sheet(profile: DeviceProfile, device: Device) -> DeviceProfile:
    """Return a profile in which common formats that were not timed follow the data sheet."""
    names = [
        name
        for name in COMMON_FORMATS
        if FORMATS[name].is_quantized and name in profile.aliases and name in device.formats
    ]
    aliases = {name: other for name, other in profile.aliases.items() if name not in names}
    notes = tuple(note for note in profile.notes if note.split(" ")[0] not in names)
    return replace(
        profile,
        gemms={**profile.gemms, **{name: spec_gemm(device, name) for name in names}},
        aliases=aliases,
        notes=(*notes, DATA_SHEET_NOTE.format(", ".join(names))),
    )


def with_parts_of(profile: DeviceProfile, other: DeviceProfile) -> DeviceProfile:
    """Return a profile with the parts beyond dense layers that another kernel set has."""
    return replace(profile, **{name: getattr(other, name) for name in OF_PARTS})


def text_of(profile: DeviceProfile) -> str:
    """Return what the profile's file holds."""
    return json_text(to_dict(profile))


def write_profile(profile: DeviceProfile) -> None:
    """Write a shipped profile."""
    write_text(PROFILES / f"{profile.device}.{profile.kernels}.json", text_of(profile))


def write_shipped_profiles() -> None:
    """Write all shipped profiles."""
    for file_name, profile in profiles_of_2023().items():
        write_text(PROFILES / file_name, text_of(profile))
    if not SHARED_KERNELS.is_dir():
        return
    of_vllm = {device: report_of_vllm(device).profile for device in VLLM}
    for profile in of_vllm.values():
        write_profile(profile)
    for device in TENSORRT_LLM:
        parts = of_vllm.get(device) or report_of_parts(device).profile
        write_profile(with_parts_of(report_of_tensorrt_llm(device).profile, parts))


if __name__ == "__main__":
    write_shipped_profiles()

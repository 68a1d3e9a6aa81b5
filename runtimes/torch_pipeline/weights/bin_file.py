"""PyTorch's own files of weights: nothing but tensors is loaded, no more than a file holds.

PyTorch's weights-only reader runs no code, but what it is told to allocate it does, and for a
damaged file it raises errors of any type. So a file is looked through before it is loaded.
"""

import os
import pickletools
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, BinaryIO

import torch

from llmpq_sim.core.errors import InputError, LlmpqError
from llmpq_sim.core.fields import kind_of
from llmpq_sim.core.units import KIB
from llmpq_sim.io.files import open_regular

INTEGERS = frozenset({"INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4"})
CALLABLES = ("builtins ", "__builtin__ ")
"""Of what PyTorch's reader allows, these make objects as large as they are told to."""

LEGACY_PICKLES = 5
"""Before the tensors of a file of 2020 or earlier: a magic number, a version, sizes of types, the
mapping, and names of tensors. Source: torch/serialization.py, ``_legacy_save``."""

LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
LEAST_NUMBER_LIMIT = 64 * KIB


def load_bin(path: Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file; those of the format since 2020 mapped, older ones all at once.

    Raises:
        InputError: it is damaged, holds more than weights, or states more than it holds.
    """
    try:
        with open_regular(path) as stream:
            _check_sizes(stream)
        is_zip = zipfile.is_zipfile(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=is_zip)
        return _checked(loaded)
    except LlmpqError:
        raise
    except UnpicklingError as error:
        raise InputError(
            f"{path}: expected nothing but weights; what else it holds could run code and is not "
            f"loaded ({_reason(error)}); convert the model to safetensors where it can be trusted"
        ) from None
    except Exception as error:  # a damaged pickle makes the reader raise whatever Python can
        raise InputError(f"{path}: cannot read its list of tensors: {_reason(error)}") from None


def _reason(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    if isinstance(error, KeyError | IndexError | EOFError | AssertionError) or not lines:
        return f"it is damaged or cut short ({type(error).__name__})"
    return lines[0][:400]


# ---- before loading


def _check_sizes(stream: BinaryIO) -> None:
    """Raise ValueError or UnpicklingError for a file that would allocate more than it holds."""
    size_bytes = os.fstat(stream.fileno()).st_size
    if not zipfile.is_zipfile(stream):
        stream.seek(0)
        _check_pickles(stream, LEGACY_PICKLES, size_bytes)
        return
    with zipfile.ZipFile(stream) as archive:
        unpacked_bytes = sum(member.file_size for member in archive.infolist())
        if unpacked_bytes > size_bytes:
            raise ValueError(
                f"expected tensors as they are, got packed ones: {size_bytes} bytes that unpack "
                f"to {unpacked_bytes}"
            )
        for member in archive.infolist():
            if member.filename.endswith("data.pkl"):
                with archive.open(member) as pickled:
                    _check_pickles(pickled, 1, size_bytes)  # type: ignore[arg-type]


def _check_pickles(stream: BinaryIO, count: int, size_bytes: int) -> None:
    """Look through pickles, none of which is executed, as far as they can be read."""
    limit = max(size_bytes, LEAST_NUMBER_LIMIT)
    for _ in range(count):
        operations = pickletools.genops(stream)
        while True:
            try:
                opcode, argument, _at = next(operations)
            except StopIteration:
                break
            except Exception:  # damaged: PyTorch's reader comes no further, and says so
                return
            _check_operation(opcode.name, argument, limit)


def _check_operation(name: str, argument: Any, limit: int) -> None:
    if name == "GLOBAL" and str(argument).startswith(CALLABLES):
        raise UnpicklingError(f"it calls {str(argument).replace(' ', '.')}")
    if name in INTEGERS and abs(argument) > limit and argument != LEGACY_MAGIC:
        raise ValueError(f"it states a size of {kind_of(argument)}, more than the file holds")


# ---- after loading


def _checked(loaded: object) -> dict[str, torch.Tensor]:
    """Return tensors by name, each of which is whole in the file.

    Raises:
        ValueError: it is something else.
    """
    tensors: dict[str, Any] = dict(loaded) if isinstance(loaded, dict) else {}
    named = all(isinstance(name, str) for name in tensors)
    if not tensors or not named or not all(map(torch.is_tensor, tensors.values())):
        raise ValueError(f"expected a mapping from names to tensors, got {type(loaded).__name__}")
    for name, tensor in tensors.items():
        plain = tensor.layout is torch.strided and not tensor.is_quantized
        if not plain or tensor.device.type != "cpu":
            raise ValueError(f"expected dense tensors, got {kind_of(name)} of another layout")
        if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
            raise ValueError(f"expected whole tensors, got less of {kind_of(name)} than its shape")
    return tensors

"""Resource checks of a measurement: disk and memory."""

import shutil
from pathlib import Path

import psutil
import torch

from llmpq_sim.core.errors import InfeasibleError
from llmpq_sim.core.layers import Experts, LayerKind
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.units import MIB, gib_apart
from runtimes.quality.layer_stages import LayerSource
from runtimes.quality.streaming import HEAD_TOKENS

ACTIVATIONS_HIDDEN, ACTIVATIONS_INNER = 8, 4
"""Vectors of a token that are there at once in a layer, as wide as the residual stream and as the
inside of the MLP; more than any architecture here has, so that the check errs on the safe side."""

LOGITS_FLOAT64 = 4
"""Log-probabilities that are there at once: two, the exponential of one, and their difference."""

BESIDE_BYTES = 64 * MIB
"""What libraries and the allocator take beside tensors: llama-160m in bfloat16 on a CPU was seen to
take 237 MiB where its tensors come to 180."""


def needed_memory_bytes(spec: ModelSpec, source: LayerSource) -> int:
    """Return the most bytes that are needed at once beside the process itself.

    That is one layer as it is kept at 16 (or 32) bits, its largest matrix once more while it is
    read, and the windows that pass together; or one end of the model, with the logits of the tokens
    that are compared together.
    """
    size = source.dtype.itemsize
    layer = max(_layer_elements(kind) for kind in spec.kinds) * size
    widths = max(_activation_elements(kind) for kind in spec.kinds)
    windows = source.windows_at_once * source.window_tokens * widths * size
    logits = HEAD_TOKENS * spec.vocab_size * (LOGITS_FLOAT64 * torch.float64.itemsize + size)
    embedding, head = spec.embedding_weights * size, spec.head_weights * size + logits
    return max(layer + windows, embedding, head) + BESIDE_BYTES


def _layer_elements(kind: LayerKind) -> int:
    """Return the elements of a layer, with its largest matrix once more, all experts together."""
    return kind.parameters + max(linear.weights for linear in kind.linears)


def _activation_elements(kind: LayerKind) -> int:
    """Return the elements that there are of a token at once; it goes through several experts."""
    part = kind.feed_forward
    inner = 0
    if isinstance(part, Experts):
        inner = part.chosen * (part.inner_size + kind.hidden_size) + part.shared_inner_size
    elif part is not None:
        inner = part.inner_size
    return ACTIVATIONS_HIDDEN * kind.hidden_size + ACTIVATIONS_INNER * inner


def free_memory_bytes(device: torch.device) -> int:
    """Return the memory that a device has left."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available)


def check_memory(needed_bytes: int, free_bytes: int, model: str) -> None:
    """Check that the largest layer or end of a model fits.

    Raises:
        InfeasibleError: it does not.
    """
    if needed_bytes > free_bytes:
        needs, has = gib_apart(needed_bytes, free_bytes)
        raise InfeasibleError(
            f"{model}: measuring it, even layer by layer, needs {needs} GiB of memory, "
            f"{has} GiB are free; free some, or give fewer --window-tokens"
        )


def check_disk(folder: Path, needed_bytes: int) -> None:
    """Check that the streams fit on the disk of a folder.

    Raises:
        InfeasibleError: they do not.
    """
    free_bytes = shutil.disk_usage(folder).free
    if needed_bytes > free_bytes:
        needs, has = gib_apart(needed_bytes, free_bytes)
        raise InfeasibleError(
            f"{folder}: hidden states of all candidates need {needs} GiB of disk, "
            f"{has} GiB are free; give fewer --windows or --formats, or an --out on "
            "another disk"
        )

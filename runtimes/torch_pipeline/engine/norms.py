"""Norms that PyTorch computes in one kernel instead of six.

At one token per sequence a GPU spends longer on starting small kernels than on what they compute.
"""

import torch
from torch import nn
from torch.nn import functional

TOLERANCE = 1e-5
"""Most difference in 32 bits at which two norms count as the same function."""


class FusedRmsNorm(nn.Module):
    """Root mean square norm (arXiv:1910.07467) by PyTorch's kernel.

    Attributes:
        weight: of each feature.
        epsilon: added to the mean square.
    """

    def __init__(self, weight: nn.Parameter, epsilon: float) -> None:
        super().__init__()
        self.weight = weight
        self.epsilon = epsilon

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """Return the normed features in the type of the input."""
        return functional.rms_norm(hidden, self.weight.shape, self.weight, self.epsilon)


def fuse_norms(model: nn.Module) -> int:
    """Replace the norms of a model that are plain RMS norms; return how many.

    Architectures have norms of their own under similar names, some with another rule for weights:
    one is replaced only where both give the same numbers.
    """
    replaced = 0
    for parent in list(model.modules()):
        for name, norm in list(parent.named_children()):
            fused = _fused(norm)
            if fused is not None:
                setattr(parent, name, fused)
                replaced += 1
    return replaced


def _fused(norm: nn.Module) -> FusedRmsNorm | None:
    epsilon = getattr(norm, "variance_epsilon", getattr(norm, "eps", None))
    weight = getattr(norm, "weight", None)
    is_named_so = type(norm).__name__.endswith("RMSNorm")
    if not is_named_so or not isinstance(epsilon, float) or not isinstance(weight, nn.Parameter):
        return None
    wide = FusedRmsNorm(nn.Parameter(weight.detach().float(), requires_grad=False), epsilon)
    generator = torch.Generator().manual_seed(0)
    probe = torch.randn(4, *weight.shape, generator=generator).to(weight.device)
    expected = norm(probe).float()
    error = (wide(probe) - expected).abs().max() / expected.abs().max().clamp(min=1e-30)
    return FusedRmsNorm(weight, epsilon) if error < TOLERANCE else None

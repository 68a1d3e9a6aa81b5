"""Fit of a local machine profile, with errors between the sizes that were timed.

1. Kernels (`machine_kernels`): products and attention, by the kernel that is used at each number of
   tokens (`crossover`).
2. What surrounds them (`overheads`): layers, both ends of a model, steps, links.
3. What differs in a real pipeline (`pipeline_calibration`).

`notes` says it in sentences. Errors are of products and attention at token counts that were left
out, one in three at a time, and of whole layers by models that saw neither their tokens nor the
layer itself.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from llmpq_sim.core.cluster import Device
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.units import US
from llmpq_sim.latency.fitting.crossover import (
    ALWAYS,
    dense_tokens,
    kernel_crossovers,
    used_rows,
    with_dense_kernels_only,
)
from llmpq_sim.latency.fitting.evaluation import DECODE_TOKENS, PHASES, FitError, fit_error
from llmpq_sim.latency.fitting.kernels import attention_sizes_of, by_format, gemm_sizes_of
from llmpq_sim.latency.fitting.machine_kernels import fit_local_attention, fit_local_gemm
from llmpq_sim.latency.fitting.overheads import (
    TimedLayers,
    kernels_s,
    layer_overhead,
    timed_layers,
    with_overheads,
)
from llmpq_sim.latency.fitting.pipeline_calibration import (
    steps_of_kernels,
    with_pipeline_calibration,
)
from llmpq_sim.latency.fitting.rows import Measurements, UsableRows, formats_of
from llmpq_sim.latency.models import Overhead
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.latency.spec import spec_attention
from llmpq_sim.latency.work import BoolArray, FloatArray

FOLDS = 3
"""One in so many of the timed sizes is left out at a time, never the least or the largest."""

ONLY_DENSE = "torch-dense"
"""Kernel set of a device that has no fused kernels."""

Progress = Callable[[str], None]


@dataclass(frozen=True)
class LocalRows:
    """Local measurements by what they are used for.

    Attributes:
        gemms: timed products by format, of both kernels.
        attention: by phase.
        layers: whole layers, timed with the kernels that the profile names.
        crossovers: tokens from which each format's dense kernel is used.
        is_dense_only: whether no fused kernel is among them.
    """

    gemms: dict[str, Measurements]
    attention: dict[str, Measurements]
    layers: Measurements
    crossovers: dict[str, int]
    is_dense_only: bool = False


def local_rows(usable: UsableRows, kernels: str | None) -> LocalRows:
    """Return usable rows by use; of the set ``torch-dense`` only what needs no fused kernel."""
    gemms, layers = _with_heads(usable), usable.layers
    crossovers = kernel_crossovers(gemms)
    if kernels == ONLY_DENSE:
        layers = _dense_layers(layers, dense_tokens(gemms, crossovers))
        gemms = gemms.where(with_dense_kernels_only(gemms))
        crossovers = dict.fromkeys(formats_of(gemms).tolist(), ALWAYS)
    attention = {phase: usable.attention.where(usable.attention.phase == phase) for phase in PHASES}
    return LocalRows(by_format(gemms), attention, layers, crossovers, kernels == ONLY_DENSE)


def _dense_layers(layers: Measurements, from_tokens: dict[str, float]) -> Measurements:
    """Return the layers that were timed with dense kernels."""
    tokens = np.where(layers.phase == "prefill", layers.batch * layers.seq, layers.batch)
    first = [from_tokens.get(name, np.inf) for name in formats_of(layers).tolist()]
    return layers.where(tokens >= np.asarray(first))


def local_profile(
    base: DeviceProfile,
    usable: UsableRows,
    rows: LocalRows,
    models: Mapping[str, ModelSpec],
    device: Device,
    seed: int,
    on_progress: Progress,
) -> tuple[DeviceProfile, list[FitError]]:
    """Return the profile that local measurements give, and its errors.

    Layers, and the steps of most pipelines, were timed with all kernels. What they cost besides is
    therefore what the profile of all kernels leaves of them, whichever of these the device has.

    Args:
        base: what is kept where nothing was timed.
        usable: all rows.
        rows: the same by use.
        models: the models that whole-layer rows name.
        device: what they were timed on.
        seed: of the trees.
        on_progress: called with a sentence before each step.

    Raises:
        InputError: a layer names a model that is not known.
    """
    fit = _KernelFit(base, rows, device, seed)
    on_progress(f"fitting {len(usable.gemms):,} matrix products and attention")
    kernels = all_kernels = fit.without(None)
    on_progress("leaving out one in three of the timed sizes, in turn")
    folds = [fit.without(fold) for fold in range(FOLDS)]
    on_progress(f"fitting what {len(rows.layers)} whole layers and empty visits add")
    layers = all_layers = timed_layers(rows.layers, models, kernels)
    errors = [*fit.kernel_errors(folds), *_layer_errors(layers, fit, folds)]
    if rows.is_dense_only:
        all_rows = local_rows(usable, None)
        all_kernels = _KernelFit(base, all_rows, device, seed).without(None)
        all_layers = timed_layers(all_rows.layers, models, all_kernels)
    beside = layer_overhead(all_layers) if all_layers else None
    profile = with_overheads(kernels, beside, usable)
    steps = steps_of_kernels(usable.pipeline_steps, all_dense=rows.is_dense_only)
    timed_with = profile
    if not len(steps):
        steps = steps_of_kernels(usable.pipeline_steps, all_dense=False)
        timed_with = with_overheads(all_kernels, beside, usable) if rows.is_dense_only else profile
    profile = with_pipeline_calibration(profile, steps, models, timed_with)
    return profile, [*errors, *_head_errors(profile, usable.heads)]


class _KernelFit:
    """Fits the kernels of a profile to all local rows, or to two thirds of their sizes."""

    def __init__(self, base: DeviceProfile, rows: LocalRows, device: Device, seed: int) -> None:
        self.base, self.rows, self.device, self.seed = base, rows, device, seed

    def without(self, fold: int | None) -> DeviceProfile:
        """Return the profile of all rows but those of a fold."""
        gemms = {
            name: fit_local_gemm(
                rows.where(~self.left_out(rows.m, rows.m, fold)),
                self.device,
                name,
                self.rows.crossovers.get(name),
                self.seed,
            )
            for name, rows in self.rows.gemms.items()
        }
        prefill, decode = (
            fit_local_attention(
                rows.where(~self.left_out(rows.seq, rows.seq, fold)), self.device, phase, self.seed
            )
            if len(rows)
            else spec_attention(self.device, phase)
            for phase, rows in self.rows.attention.items()
        )
        return replace(
            self.base,
            gemms={**self.base.gemms, **gemms},
            prefill_attention=prefill,
            decode_attention=decode,
            dense_from_tokens=self.rows.crossovers | self._crossovers_of_aliases(),
        )

    def _crossovers_of_aliases(self) -> dict[str, int]:
        """Return the crossovers of formats that are priced as another one: those of that one."""
        crossovers = self.rows.crossovers
        aliases = self.base.aliases.items()
        return {name: crossovers[other] for name, other in aliases if other in crossovers}

    @staticmethod
    def left_out(sizes: FloatArray, timed: FloatArray, fold: int | None) -> BoolArray:
        """Return which sizes a fold leaves out of those that were timed."""
        inner = np.unique(timed)[1:-1]
        if fold is None:
            return np.zeros(len(sizes), np.bool_)
        return np.isin(sizes, inner[fold::FOLDS])

    def kernel_errors(self, folds: list[DeviceProfile]) -> list[FitError]:
        """Return errors of products and attention at sizes that were left out."""
        errors = []
        for name, rows in self.rows.gemms.items():
            used = used_rows(rows, self.rows.crossovers)
            predicted_s = np.full(len(used), np.nan)
            for fold, profile in enumerate(folds):
                unseen = self.left_out(used.m, rows.m, fold)
                sizes = gemm_sizes_of(used.where(unseen))
                predicted_s[unseen] = profile.gemms[name].time_s(sizes)
            decode = used.m <= DECODE_TOKENS
            parts = {"any": np.ones_like(decode), "decode": decode, "prefill": ~decode}
            errors += [
                _error_of("gemm", name, phase, predicted_s[mask], used.where(mask))
                for phase, mask in parts.items()
            ]
        for phase, rows in self.rows.attention.items():
            predicted_s = np.full(len(rows), np.nan)
            for fold, profile in enumerate(folds):
                unseen = self.left_out(rows.seq, rows.seq, fold)
                model = (
                    profile.prefill_attention if phase == "prefill" else profile.decode_attention
                )
                predicted_s[unseen] = model.time_s(attention_sizes_of(rows.where(unseen)))
            errors.append(_error_of("attention", "fp16", phase, predicted_s, rows))
        return [error for error in errors if error.rows]

    def unseen_kernels_s(self, part: TimedLayers, folds: list[DeviceProfile]) -> FloatArray:
        """Return the kernels of layers by the models that have not seen their tokens or context.

        Where all have seen both or neither, the layer's point lies between timed sizes anyway.
        """
        found_s = part.kernels_s.copy()
        tokens, sequences = part.rows.products.tokens[:, 0], part.rows.attention.tokens
        timed = self.rows.gemms.get(part.rows.format)
        for fold, profile in enumerate(folds):
            unseen = np.zeros(len(tokens), np.bool_)
            if timed is not None:
                unseen |= self.left_out(tokens, timed.m, fold)
            for phase, rows in self.rows.attention.items():
                own = part.rows.is_prefill == (phase == "prefill")
                unseen |= own & self.left_out(sequences, rows.seq, fold)
            found_s[unseen] = kernels_s(part.rows, profile)[unseen]
        return found_s


def _with_heads(usable: UsableRows) -> Measurements:
    """Return the products, and the LM head as a 16-bit one where its product was not timed."""
    gemms, heads = usable.gemms, usable.heads
    wide = gemms.where(formats_of(gemms) == "fp16")
    known = set(zip(wide.n.tolist(), wide.k.tolist(), strict=True))
    missing = [shape not in known for shape in zip(heads.n.tolist(), heads.k.tolist(), strict=True)]
    if not any(missing):
        return gemms
    added = heads.where(np.asarray(missing))
    return gemms.joined(replace(added, quant=np.full(len(added), "fp16")))


def _layer_errors(
    layers: list[TimedLayers], fit: _KernelFit, folds: list[DeviceProfile]
) -> list[FitError]:
    """Return the errors of whole layers, each by an overhead that has not seen it."""
    errors = []
    for number, part in enumerate(layers):
        predicted_s = fit.unseen_kernels_s(part, folds)
        for row in range(len(predicted_s)):
            overhead: Overhead = layer_overhead(layers, without=(number, row))
            predicted_s[row] += float(overhead.time_s(part.moved_bytes[row]))
        for phase in PHASES:
            own = part.rows.is_prefill == (phase == "prefill")
            if own.any():
                time_s = part.rows.time_s[own]
                errors.append(fit_error("layer", part.rows.format, phase, predicted_s[own], time_s))
    return errors


def _head_errors(profile: DeviceProfile, heads: Measurements) -> list[FitError]:
    """Return the error of the LM head on the rows of the fit itself."""
    if not len(heads):
        return []
    predicted_s = profile.gemm_s("fp16", heads.m, heads.n, heads.k)
    predicted_s = predicted_s + profile.head_s(8.0 * heads.m * heads.n)
    return [fit_error("head", "fp16", "any", predicted_s, heads.latency_us * US)]


def _error_of(
    op: str, name: str, phase: str, predicted_s: FloatArray, rows: Measurements
) -> FitError:
    known = np.isfinite(predicted_s)
    if not known.any():
        return FitError(op, name, phase, 0.0, 0.0, 0)
    return fit_error(op, name, phase, predicted_s[known], rows.latency_us[known] * US)

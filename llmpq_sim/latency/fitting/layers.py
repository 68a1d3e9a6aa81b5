"""Kernel constants fitted to whole-layer times, where no kernel was timed alone.

A layer is four matrix products and attention. Constants that a handful of rows leaves open stay
near the data sheet.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from llmpq_sim.core.cluster import Device
from llmpq_sim.core.errors import InputError
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.core.units import US
from llmpq_sim.latency.fitting.kernels import by_format, read_bits, significant
from llmpq_sim.latency.fitting.rows import Measurements
from llmpq_sim.latency.models import AttentionModel, GemmModel, Roofline
from llmpq_sim.latency.spec import sustained_bytes_per_s, sustained_flops_per_s
from llmpq_sim.latency.work import AttentionSizes, BoolArray, FloatArray, GemmSizes

LAUNCH_S = 50e-6
"""Where a fit starts for the fixed cost of a matrix product that Python calls."""

PRIOR_WEIGHT = 0.05
"""Error that a factor of e away from the data sheet counts as."""

OUTLIER_ERROR = 0.05
"""Errors beyond this weigh linearly rather than squared."""

TOLERANCE = 1e-12
DIGITS = 4
"""Sought far more exactly than it is kept, so that every machine keeps the same."""


@dataclass(frozen=True)
class LayerModels:
    """What whole-layer rows say about kernels.

    Attributes:
        gemms: roofline by weight format.
        prefill_attention, decode_attention: linear models that the formats share.
        layer_overhead_s: fixed cost of a step that the formats have in common.
        median_ape, p90_ape: error on the rows of the fit itself.
    """

    gemms: dict[str, GemmModel]
    prefill_attention: AttentionModel
    decode_attention: AttentionModel
    layer_overhead_s: float
    median_ape: float
    p90_ape: float

    def layer_s(self, rows: "LayerRows") -> FloatArray:
        """Return the times of layers."""
        products_s = self.gemms[rows.format].time_s(rows.products).sum(axis=1)
        attention_s = np.where(
            rows.is_prefill,
            self.prefill_attention.time_s(rows.attention),
            self.decode_attention.time_s(rows.attention),
        )
        layer_s: FloatArray = self.layer_overhead_s + products_s + attention_s
        return layer_s


@dataclass(frozen=True)
class LayerRows:
    """Timed layers of one format.

    Attributes:
        format: weight format.
        products: sizes of the matrix products; shape (rows, products).
        attention: sizes of attention.
        is_prefill: whether a row is of prefill.
        time_s: measured times.
    """

    format: str
    products: GemmSizes
    attention: AttentionSizes
    is_prefill: BoolArray
    time_s: FloatArray


def fit_layers(rows: Measurements, models: Mapping[str, ModelSpec], device: Device) -> LayerModels:
    """Return the kernel constants that explain whole-layer rows.

    They minimise the squared errors of the logarithm, linear for outliers, together with the
    squared distance of their own logarithms from the data sheet.

    Raises:
        InputError: a row names a model that is not known.
    """
    from scipy.optimize import least_squares

    layers = [layer_rows(own, models, name) for name, own in by_format(rows).items()]
    formats = [part.format for part in layers]
    origin = np.log(_data_sheet(device, len(formats)))

    def errors(logs: FloatArray) -> FloatArray:
        fitted = _models(np.exp(logs), formats, device)
        misfits = [np.log(fitted.layer_s(part) / part.time_s) for part in layers]
        return np.concatenate([*misfits, PRIOR_WEIGHT * (logs - origin)])

    tight = {"ftol": TOLERANCE, "xtol": TOLERANCE, "gtol": TOLERANCE}
    found = least_squares(errors, origin, loss="soft_l1", f_scale=OUTLIER_ERROR, **tight)
    constants = [significant(value, DIGITS) for value in np.exp(found.x).tolist()]
    fitted = _models(np.asarray(constants), formats, device)
    ratios = np.concatenate([fitted.layer_s(part) / part.time_s for part in layers])
    median, p90 = np.quantile(np.abs(ratios - 1), (0.5, 0.9)).tolist()
    return replace(_with_common_overhead(fitted), median_ape=median, p90_ape=p90)


def layer_rows(rows: Measurements, models: Mapping[str, ModelSpec], format_name: str) -> LayerRows:
    """Return rows of one format with the sizes that their models give them.

    Raises:
        InputError: a row names a model that is not known.
    """
    for name in np.unique(rows.model).tolist():
        if name not in models:
            raise InputError(f"rows with op=layer: expected the name of a model, got {name!r}")
    specs = [models[name] for name in rows.model.tolist()]
    is_prefill = rows.phase == "prefill"
    tokens = np.where(is_prefill, rows.batch * rows.seq, rows.batch)
    widths = np.asarray(
        [
            [(part.out_features, part.in_features) for part in spec.only_kind.linears]
            for spec in specs
        ],
        np.float64,
    )
    mixers = [spec.only_kind.attention for spec in specs]
    layouts = np.asarray([(m.heads, m.kv_heads, m.key_dim) for m in mixers], np.float64)
    return LayerRows(
        format=format_name,
        products=GemmSizes(tokens[:, np.newaxis], widths[..., 0], widths[..., 1]),
        attention=AttentionSizes(rows.batch, rows.seq, *layouts.T),
        is_prefill=is_prefill,
        time_s=rows.latency_us * US,
    )


def _data_sheet(device: Device, formats: int) -> list[float]:
    """Return the constants a fit starts from: two of attention, then three for each format."""
    flops_per_s, bytes_per_s = sustained_flops_per_s(device), sustained_bytes_per_s(device)
    return [1 / flops_per_s, 1 / bytes_per_s, *(LAUNCH_S, flops_per_s, bytes_per_s) * formats]


def _models(constants: FloatArray, formats: list[str], device: Device) -> LayerModels:
    flop_s, byte_s, *rooflines = constants.tolist()
    gemms = {
        name: GemmModel(
            read_bits(name), Roofline(*rooflines[3 * i : 3 * i + 3]), None, device.multiprocessors
        )
        for i, name in enumerate(formats)
    }
    prefill = AttentionModel("prefill", (flop_s, *[0.0] * 5), None, device.multiprocessors)
    decode = AttentionModel("decode", (0.0, byte_s, *[0.0] * 4), None, device.multiprocessors)
    return LayerModels(gemms, prefill, decode, 0.0, 0.0, 0.0)


def _with_common_overhead(models: LayerModels) -> LayerModels:
    """Return the same times, with the fixed cost that all formats share as the layer's own."""
    common_s = min(gemm.base.fixed_s for gemm in models.gemms.values())
    gemms = {
        name: replace(
            gemm, base=replace(gemm.base, fixed_s=significant(gemm.base.fixed_s - common_s))
        )
        for name, gemm in models.gemms.items()
    }
    return replace(models, gemms=gemms, layer_overhead_s=significant(4 * common_s))

"""Fit of the kernels that LLM-PQ ran on in 2023, for any hidden size and batch.

The authors timed layers of one model, OPT-30b. That says how times grow with the batch, but not
which part of them grows with the weights: the physics below does.

- 16 bits: a roofline fitted to its layers alone (`layer_fits`); attention and the cost of a step
  of a layer are then known, and the same in every format.
- 3 and 4 bits, the first GPTQ kernels: they decode every weight anew for every row, so time is
  rows x weights at one rate in both phases; packed weights pass at the sustained bandwidth.
- 8 bits, bitsandbytes (LLM.int8): weights pass at the rate of the 16-bit products. From compute
  capability 7.5 on a weight is read as one byte. Below it there is no 8-bit product: the weights
  are converted to 16 bits before each (`MatMul8bitLt`: ``linear(A, CB.to(A.dtype))``), so a weight
  is read as one byte, written as two and read as two.

Of a quantized format, the rate of arithmetic follows from the prefill rows, and what is left of
the decode rows is the fixed cost of a product. For 8 bits that is 0.7 ms on T4 and 0.4 ms on V100;
8-bit BLOOM-176b on A100s takes 286 ms a token as published (Hugging Face, BLOOM inference
benchmarks, 2022), less the time to read its weights 0.6 ms a product. What was not timed follows
the device that runs the same kernels.
"""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from llmpq_sim.core.cluster import Device
from llmpq_sim.core.model import ModelSpec
from llmpq_sim.latency.fitting.fit import fit_profile
from llmpq_sim.latency.fitting.kernels import significant
from llmpq_sim.latency.fitting.layers import LayerRows, layer_rows
from llmpq_sim.latency.fitting.rows import Measurements
from llmpq_sim.latency.models import GemmModel, Roofline
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.latency.spec import sustained_bytes_per_s
from llmpq_sim.paper.cases import KERNELS_OF_2023
from tests.golden.transfer import transferred_profile

SOURCE_OF_2023 = (
    "LLM-PQ authors' notebooks of 2023 (arXiv:2403.01136): GPTQ kernels for 3 and 4 bits, "
    "LLM.int8 for 8, PyTorch for 16"
)

QUANTIZED = ("int8", "int4", "int3")
BITS_PACKED = {"int4": 4.0, "int3": 3.0}
BITS_READ = 8.0
BITS_MOVED_BY_CONVERSION = 8.0 + 16.0 + 16.0
"""Bits moved for a stored 8-bit weight where it is read, and where it is converted first."""

WITHOUT_INT8_PRODUCTS = ("v100-32g", "p100-12g")
"""Devices of the paper below compute capability 7.5: V100 is 7.0, P100 is 6.0 (CUDA guide)."""

FP32_RATIO = 19.5 / 15.7
"""FP32 rates of A100 and V100 by their data sheets, in TFLOPS: the GPTQ kernels of 2023 compute on
CUDA cores."""

SEED = 0


def timed_profile(
    rows: Measurements, device: Device, models: Mapping[str, ModelSpec]
) -> DeviceProfile:
    """Return the profile of a device whose layers were timed at 16 bits and in other formats.

    Raises:
        InputError: no row is of this device at 16 bits, or one names an unknown model.
    """
    own = rows.where(rows.gpu == device.name)
    profile = fit_profile(
        own.where(own.quant == "fp16"),
        device,
        KERNELS_OF_2023,
        SEED,
        models=models,
        source=SOURCE_OF_2023,
    ).profile
    gemms = {
        name: _product(profile, device, layer_rows(own.where(own.quant == name), models, name))
        for name in QUANTIZED
        if name in own.quant
    }
    notes = [f"Fitted to {len(own)} layers of OPT-30b; other sizes follow the roofline."]
    if "int8" in gemms:
        notes.append(_int8_note(device))
    return replace(
        profile,
        calibration_rows=len(own),
        notes=tuple(notes),
        aliases={},
        gemms=profile.gemms | gemms,
    )


def completed_profile(
    profile: DeviceProfile, device: Device, reference: DeviceProfile
) -> DeviceProfile:
    """Return a profile without 8- and 3-bit rows with the products of a reference's kernels.

    The reference runs the same kernels: 8 bits cost the device's own 16-bit product, the conversion
    at its sustained bandwidth, and the reference's fixed cost; 3 bits differ from 4 in arithmetic
    as they do on the reference.
    """
    fp16, int4 = profile.gemms["fp16"].base, profile.gemms["int4"].base
    like = {name: gemm.base for name, gemm in reference.gemms.items()}
    converted_s = 16.0 / fp16.bytes_per_s + 24.0 / sustained_bytes_per_s(device)
    int8 = Roofline(
        like["int8"].fixed_s,
        significant(fp16.flops_per_s * like["int8"].flops_per_s / like["fp16"].flops_per_s),
        significant(BITS_MOVED_BY_CONVERSION / converted_s),
    )
    int3 = replace(
        int4,
        flops_per_s=significant(
            int4.flops_per_s * like["int3"].flops_per_s / like["int4"].flops_per_s
        ),
    )
    sms = device.multiprocessors
    note = (
        f"int8 and int3 were not timed: the kernels are those of {reference.device}, the rates "
        "this device's own at 16 and 4 bits."
    )
    return replace(
        profile,
        notes=(*profile.notes, note),
        gemms={
            "fp16": profile.gemms["fp16"],
            "int8": GemmModel(BITS_MOVED_BY_CONVERSION, int8, None, sms),
            "int4": profile.gemms["int4"],
            "int3": GemmModel(3.0, int3, None, sms),
        },
    )


def derived_profile(
    profile: DeviceProfile, device: Device, target: Device, reading_int8: DeviceProfile
) -> DeviceProfile:
    """Return the profile of a device from compute capability 7.5 on that was not timed at all.

    Rates scale with the data sheets (`transfer`). 8 bits run the kernels of ``reading_int8``: its
    fixed cost, its ratio of 8-bit to 16-bit arithmetic, and the target's own bandwidth.
    """
    found = transferred_profile(profile, device, target, FP32_RATIO, ("int4", "int3"))
    fp16, like = found.gemms["fp16"].base, reading_int8.gemms
    ratio = like["int8"].base.flops_per_s / like["fp16"].base.flops_per_s
    rate = significant(fp16.flops_per_s * ratio)
    base = Roofline(like["int8"].base.fixed_s, rate, fp16.bytes_per_s)
    int8 = GemmModel(BITS_READ, base, None, target.multiprocessors)
    note = f"int8 runs the kernels of {reading_int8.device}: its weights are read as one byte."
    return replace(
        found, gemms=found.gemms | {"int8": int8}, notes=(found.notes[0], note, *found.notes[1:])
    )


def _product(profile: DeviceProfile, device: Device, rows: LayerRows) -> GemmModel:
    """Return the product of a format that explains timed layers beside those at 16 bits."""
    if rows.format == "int8":
        bits, bytes_per_s = _moved_bits(device), profile.gemms["fp16"].base.bytes_per_s
    else:
        bits, bytes_per_s = BITS_PACKED[rows.format], sustained_bytes_per_s(device)
    attention_s = np.where(
        rows.is_prefill,
        profile.prefill_attention_s(*rows.attention),
        profile.decode_attention_s(*rows.attention),
    )
    products_s = rows.time_s - attention_s - profile.layer_overhead_s
    flops, count = rows.products.flops.sum(axis=1), rows.products.out_features.shape[1]
    rate = float(np.median((flops / products_s)[rows.is_prefill]))
    moved_s = rows.products.moved_bytes(bits) / bytes_per_s
    work_s = np.maximum(rows.products.flops / rate, moved_s).sum(axis=1)
    left_s = float(np.median((products_s - work_s)[~rows.is_prefill]))
    fixed_s = max(left_s, 0.0) / count
    rate = float(np.median((flops / (products_s - count * fixed_s))[rows.is_prefill]))
    base = Roofline(significant(fixed_s), significant(rate), significant(bytes_per_s))
    return GemmModel(bits, base, None, device.multiprocessors)


def _moved_bits(device: Device) -> float:
    return BITS_MOVED_BY_CONVERSION if device.name in WITHOUT_INT8_PRODUCTS else BITS_READ


def _int8_note(device: Device) -> str:
    if device.name in WITHOUT_INT8_PRODUCTS:
        return "int8 weights are converted to 16 bits before each product, 5 bytes moved for each."
    return "int8 weights are read as one byte, at the rate of 16-bit ones."

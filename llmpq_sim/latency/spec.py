"""Latency profile of a device of which only the data sheet is known."""

from llmpq_sim.core.cluster import Device
from llmpq_sim.core.formats import FORMATS
from llmpq_sim.latency.models import AttentionModel, GemmModel, Roofline
from llmpq_sim.latency.profile import DeviceProfile

SPEC_KERNELS = "spec"

KERNEL_FIXED_S = 4e-6
"""Fixed cost of a kernel: the median of the rooflines fitted to six measured devices is 4.1 us."""

SPEC_ERROR_FRACTION = 0.30
"""The 90th percentile of errors of data-sheet rooflines for 16-bit kernels on measured devices."""


def spec_profile(device: Device) -> DeviceProfile:
    """Return a roofline profile from data-sheet figures and sustained shares of them."""
    return DeviceProfile(
        device=device.name,
        kernels=SPEC_KERNELS,
        status="spec",
        calibration_rows=0,
        error_fraction=SPEC_ERROR_FRACTION,
        notes=_notes(device),
        source=device.source,
        gemms={name: spec_gemm(device, name) for name in device.formats},
        aliases={},
        prefill_attention=spec_attention(device, "prefill"),
        decode_attention=spec_attention(device, "decode"),
        elementwise_bytes_per_s=sustained_bytes_per_s(device),
        layer_overhead_s=0.0,
    )


def spec_gemm(device: Device, format_name: str) -> GemmModel:
    """Return the roofline of matrix products in a format, at the sustained rates."""
    weight_format = FORMATS[format_name]
    base = Roofline(
        fixed_s=KERNEL_FIXED_S,
        flops_per_s=weight_format.rate_on(device.arithmetic) * sustained_flops_per_s(device),
        bytes_per_s=sustained_bytes_per_s(device),
    )
    return GemmModel(weight_format.bits_per_weight(), base, None, device.multiprocessors)


def spec_attention(device: Device, phase: str) -> AttentionModel:
    """Return the sum of arithmetic, traffic and launch at the sustained rates."""
    flop_s = 1 / sustained_flops_per_s(device)
    byte_s = 1 / sustained_bytes_per_s(device)
    seconds = (flop_s, byte_s, 0.0, 0.0, 0.0, KERNEL_FIXED_S)
    return AttentionModel(phase, seconds, None, device.multiprocessors)


def sustained_flops_per_s(device: Device) -> float:
    """Return the 16-bit rate of large matrix products."""
    return device.flops_per_s * device.compute_fraction


def sustained_bytes_per_s(device: Device) -> float:
    """Return the memory bandwidth that decoding sustains."""
    return device.memory_bytes_per_s * device.memory_fraction


def _notes(device: Device) -> tuple[str, ...]:
    quantized = [name for name in device.formats if FORMATS[name].is_quantized]
    notes = [
        f"No kernel was timed on {device.name}: times follow its data sheet at "
        f"{device.compute_fraction:.2f} of the arithmetic peak and "
        f"{device.memory_fraction:.2f} of the memory bandwidth."
    ]
    if quantized:
        notes.append(
            f"{', '.join(quantized)}: assumed to read their packed bytes at the same rate as "
            "16-bit weights; kernel libraries differ from that by 10-50 %."
        )
    rates = {name: FORMATS[name].rate_on(device.arithmetic) for name in quantized}
    notes += [
        f"{name}: assumed to multiply at {rate:g} times the 16-bit rate."
        for name, rate in rates.items()
        if rate > 1.0
    ]
    return tuple(notes)

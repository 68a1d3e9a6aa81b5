"""Transfer of fitted kernels to a device of which only the data sheet is known."""

from dataclasses import replace

from llmpq_sim.core.cluster import Device
from llmpq_sim.latency.fitting.kernels import significant
from llmpq_sim.latency.models import AttentionModel, GemmModel, Roofline
from llmpq_sim.latency.profile import DeviceProfile
from llmpq_sim.latency.spec import (
    SPEC_ERROR_FRACTION,
    sustained_bytes_per_s,
    sustained_flops_per_s,
)


def transferred_profile(
    profile: DeviceProfile,
    device: Device,
    target: Device,
    cuda_core_ratio: float,
    cuda_core_formats: tuple[str, ...],
) -> DeviceProfile:
    """Return a profile of rooflines scaled from ``device`` to ``target`` by data sheets.

    Traffic scales with the sustained bandwidth, arithmetic with the sustained 16-bit rate or, for
    formats whose kernels do not use tensor cores, with ``cuda_core_ratio``. Fixed costs stay.
    Attention scales with the bandwidth: its kernels of that time moved every score.
    """
    bandwidth_ratio = sustained_bytes_per_s(target) / sustained_bytes_per_s(device)
    tensor_ratio = sustained_flops_per_s(target) / sustained_flops_per_s(device)
    return replace(
        profile,
        device=target.name,
        status="spec",
        calibration_rows=0,
        error_fraction=SPEC_ERROR_FRACTION,
        notes=(
            f"No kernel was timed on {target.name}: derived from {device.name} by the ratios of "
            f"the data sheets, bandwidth {bandwidth_ratio:.2f}, 16-bit arithmetic "
            f"{tensor_ratio:.2f}, and {cuda_core_ratio:.2f} for {', '.join(cuda_core_formats)}, "
            "whose kernels do not use tensor cores.",
            "bf16 is priced as fp16.",
        ),
        gemms={
            name: _gemm(
                model,
                cuda_core_ratio if name in cuda_core_formats else tensor_ratio,
                bandwidth_ratio,
                target,
            )
            for name, model in profile.gemms.items()
        },
        aliases=profile.aliases | {"bf16": "fp16"},
        prefill_attention=_attention(profile.prefill_attention, bandwidth_ratio, target),
        decode_attention=_attention(profile.decode_attention, bandwidth_ratio, target),
    )


def _gemm(
    model: GemmModel, flops_ratio: float, bandwidth_ratio: float, target: Device
) -> GemmModel:
    base = Roofline(
        model.base.fixed_s,
        significant(model.base.flops_per_s * flops_ratio),
        significant(model.base.bytes_per_s * bandwidth_ratio),
    )
    return GemmModel(model.weight_bits, base, None, target.multiprocessors)


def _attention(model: AttentionModel, ratio: float, target: Device) -> AttentionModel:
    seconds = tuple(significant(second / ratio) for second in model.seconds)
    return AttentionModel(model.phase, seconds, None, target.multiprocessors)

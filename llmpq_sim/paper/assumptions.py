"""Assumptions on the machines and the runtime of 2023, alike for all clusters.

None of these figures was fitted to a throughput that the authors measured.
"""

from dataclasses import replace

from llmpq_sim.core.cluster import Cluster, Device, Link
from llmpq_sim.core.units import MIB
from llmpq_sim.latency.profile import DeviceProfile

USABLE_MIB = {
    "t4": 12_428,
    "v100-32g": 28_947,
    "p100-12g": 9_656,
    "a100-40g": 36_398,
    "a800-80g": 74_921,
}
"""Memory to plan with: ``0.95 x total - 1930 MB`` of each device, as the reference states it. All
methods here plan with it. Our own planner's reserve is smaller (`cluster.RUNTIME_BYTES`)."""

MESSAGE_S = 283e-6
"""Latency of a message: gloo with a pickled description of the tensor before it, as the reference
sends it. Measured for 8 KB over loopback (PyTorch 2.13); one between nodes adds its link's own."""

GLOO_BYTES_PER_S = 4e6 / (1145e-6 - 48e-6)
"""Rate of gloo over TCP: the difference of messages of 4 MB and 8 KB over loopback, measured."""

COPY_BYTES_PER_S = 12.6e9
"""Rate of a copy between device and CPU memory: PCIe 3.0 x16 at 0.8 of 15.75 GB/s. Hidden states
cross CPU memory, so each message is copied twice."""

STEP_S = 0.12e-3
"""Python's cost of a stage step beside its layers: measured with transformers layers too small to
take time. The cost within a layer is in its measured time."""


def usable(device: Device) -> Device:
    """Return the device with the memory that the reference plans with and no further reserve."""
    return replace(device, memory_bytes=USABLE_MIB[device.name] * MIB, runtime_bytes=0)


def through_cpu_memory(link: Link) -> Link:
    """Return what a link is to a runtime that sends with gloo from CPU memory."""
    wire_bytes_per_s = min(link.bytes_per_s, GLOO_BYTES_PER_S)
    byte_s = 1 / wire_bytes_per_s + 2 / COPY_BYTES_PER_S
    return Link(MESSAGE_S + link.latency_s, 1 / byte_s)


def machines_of_paper(cluster: Cluster) -> Cluster:
    """Return a cluster whose devices have the memory that the reference plans with."""
    members = tuple(replace(member, device=usable(member.device)) for member in cluster.devices)
    return replace(cluster, devices=members)


def runtime_of_2023(cluster: Cluster) -> Cluster:
    """Return a cluster whose links are those of the reference's runtime."""
    links = {pair: through_cpu_memory(link) for pair, link in cluster.links.items()}
    return replace(cluster, links=links)


def steps_of_2023(profile: DeviceProfile) -> DeviceProfile:
    """Return a profile whose steps cost what Python took beside the layers."""
    return replace(profile, step_overhead_s=STEP_S)

"""Meeting point of stages: a file on one machine, a port that the first of several listens at.

A file is out of reach of other machines and other users. A port is bound by the launcher, to the
address that was asked for and no other, and handed over to the first stage: between finding it free
and listening there is no moment in which another process could take it.
"""

import ipaddress
import socket
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import psutil
import torch.distributed as dist

from llmpq_sim.core.errors import InputError
from runtimes.torch_pipeline.processes.worker_files import PRIVATE_MODE

MEETING_FILE = "rendezvous"
BACKLOG = 1024
PATIENCE = timedelta(minutes=15)
"""How long a machine waits for the first one to listen."""


@dataclass(frozen=True)
class Address:
    """A host and a port.

    Attributes:
        host: a name or an address.
        port: a number from 1 to 65535.
    """

    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.host}:{self.port}"


def parse_address(text: str) -> Address:
    """Return the address in a text such as ``10.0.0.1:29500``.

    Raises:
        InputError: it is none.
    """
    host, _, port = text.rpartition(":")
    if not host or not (port.isascii() and port.isdigit()) or not 0 < int(port) < 65536:
        raise InputError(f"--master: expected HOST:PORT, got {text!r}")
    return Address(host.removeprefix("[").removesuffix("]"), int(port))


def listen(address: Address) -> socket.socket:
    """Return a socket that listens at an address, and at no other of this machine.

    A name that means this machine itself to this machine alone, as some systems have it of their
    own names, is listened at on all interfaces: other machines could not reach it otherwise.

    Raises:
        InputError: the address is not this machine's, or its port is taken.
    """
    try:
        family, _, _, _, at = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM
        )[0]
        listener = socket.socket(family)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("", at[1]) if _is_own_name(address.host, str(at[0])) else at)
            listener.listen(BACKLOG)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise InputError(
            f"--master: cannot listen on {address}: {error.strerror}; choose another port, or "
            "an address of this machine"
        ) from None
    return listener


def _is_own_name(host: str, found: str) -> bool:
    """Return whether a host's name, not an address and not localhost, leads to loopback."""
    return host not in ("localhost", found) and ipaddress.ip_address(found).is_loopback


def meeting_store(folder: Path, stages: int, address: str, listener: int | None) -> dist.Store:
    """Return the store through which the stages find each other.

    Args:
        folder: of the run.
        stages: in all.
        address: of the first machine; empty where all stages are on this one.
        listener: file descriptor of the listening socket, which the first stage inherits.

    Raises:
        InputError: the first machine was not there in time.
    """
    if not address:
        path = folder / MEETING_FILE
        path.touch(PRIVATE_MODE)
        return dist.FileStore(str(path), stages)
    at, is_first = parse_address(address), listener is not None
    try:
        return dist.TCPStore(
            at.host, at.port, stages, is_first, PATIENCE, False, master_listen_fd=listener
        )
    except dist.DistNetworkError:
        raise InputError(
            f"--master: nobody listened at {address} for {PATIENCE.total_seconds():.0f} s; start "
            "llmpq deploy with --node-rank 0 on the first machine, and look at what is in between"
        ) from None


def loopback_only() -> dict[str, str]:
    """Return environment variables by which gloo and NCCL keep to the loopback interface."""
    names = [
        name
        for name, addresses in psutil.net_if_addrs().items()
        if any(one.family == socket.AF_INET and one.address == "127.0.0.1" for one in addresses)
    ]
    return {f"{library}_SOCKET_IFNAME": name for library in ("GLOO", "NCCL") for name in names[:1]}

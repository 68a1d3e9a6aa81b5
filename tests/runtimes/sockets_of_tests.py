"""Sockets for tests: a free port, and where processes listen."""

import socket
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import psutil

LOOPBACK = {"127.0.0.1", "::1"}


def free_port() -> int:
    """Return a port of the loopback interface that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def listening(processes: Iterable[psutil.Process]) -> set[tuple[str, int]]:
    """Return the addresses and ports at which processes accept connections."""
    found = set()
    for process in processes:
        with suppress(psutil.Error):
            for one in process.net_connections("inet"):
                if one.status == psutil.CONN_LISTEN:
                    found.add((one.laddr.ip, one.laddr.port))
    return found


@contextmanager
def listeners_seen() -> Iterator[set[tuple[str, int]]]:
    """Give a set that comes to hold where the descendants of this process listen meanwhile."""
    found: set[tuple[str, int]] = set()
    is_over = threading.Event()

    def look() -> None:
        while not is_over.wait(0.05):
            found.update(listening(psutil.Process().children(recursive=True)))

    watching = threading.Thread(target=look)
    watching.start()
    try:
        yield found
    finally:
        is_over.set()
        watching.join()

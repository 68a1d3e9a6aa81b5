"""Executors of simulations: processes of this machine, or workers of a Dask cluster.

Either way they go through joblib, and results do not depend on which of them simulated what.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from typing import Any, Literal, TypeVar

import llmpq_sim
from llmpq_sim.core.errors import ExecutionError, InputError

Item = TypeVar("Item")
Result = TypeVar("Result")
Executor = Literal["processes", "dask"]

CONNECT_S = 5.0
"""How long a scheduler has to answer, and its first worker to appear."""

REQUESTS_PER_POOL = 4000
"""Requests simulated over time from which other processes pay."""

FEWEST_SHARES = 2
"""Shares into which candidates are cut for a cluster, at least: a single one is not sent away."""


@contextmanager
def simulating_on(executor: Executor, scheduler: str | None, workers: int | None) -> Iterator[int]:
    """Yield how many candidates may be simulated at once, as joblib spreads them meanwhile.

    Args:
        executor: ``processes`` of this machine, or the workers of a ``dask`` cluster.
        scheduler: HOST:PORT of the scheduler of a Dask cluster.
        workers: processes at once on this machine; one per core unless told.

    Raises:
        InputError: options do not go together, Dask is missing, or no cluster is there.
        ExecutionError: the cluster failed meanwhile.
    """
    if executor == "processes":
        if scheduler is not None:
            raise InputError("--scheduler: give --executor dask as well")
        yield workers or os.cpu_count() or 1
        return
    if workers is not None:
        raise InputError("--workers: a Dask cluster has workers of its own; leave it out")
    address = _address(scheduler)
    if find_spec("distributed") is None:
        raise InputError('--executor dask needs Dask: pip install "dask[distributed]"')
    with _cluster(address) as workers_of_cluster:
        yield max(workers_of_cluster, FEWEST_SHARES)


def spread(
    work: Callable[[Sequence[Item]], list[Result]], items: Sequence[Item], workers: int
) -> list[Result]:
    """Return what some work makes of each item, an equal share of them done by each worker.

    Args:
        work: returns a result for each item of a share, in order.
        items: to be worked on.
        workers: of joblib's, at once.
    """
    from joblib import Parallel, delayed

    shares = [items[start::workers] for start in range(workers)]
    found = Parallel(n_jobs=workers)(delayed(work)(share) for share in shares)
    return [found[number % workers][number // workers] for number in range(len(items))]


def _address(scheduler: str | None) -> str:
    if scheduler is None:
        raise InputError("--executor dask: expected --scheduler HOST:PORT as well, got none")
    if not re.fullmatch(r"(\[[0-9a-fA-F:]+\]|[^\s:/\[\]]+):\d{1,5}", scheduler):
        raise InputError(f"--scheduler: expected HOST:PORT, as 10.0.0.1:8786, got {scheduler!r}")
    return f"tcp://{scheduler}"


@contextmanager
def _cluster(address: str) -> Iterator[int]:
    """Yield how many threads the workers of a scheduler have; joblib uses them meanwhile."""
    from distributed import Client, KilledWorker
    from joblib import parallel_config

    try:
        client = Client(address, timeout=CONNECT_S, set_as_default=False)
    except (OSError, ValueError) as error:
        raise InputError(
            f"--scheduler: expected a Dask scheduler at {address}, none answered within "
            f"{CONNECT_S:g} s; start one with: dask scheduler"
        ) from error
    with client:
        threads = _threads(client, address)
        try:
            with parallel_config(backend="dask", client=client):
                yield threads
        except (CancelledError, KilledWorker) as error:
            raise ExecutionError(
                f"--scheduler: the cluster at {address} was lost while it simulated; see its logs, "
                "then search with --resume"
            ) from error


def _threads(client: Any, address: str) -> int:
    """Return how many threads the workers have; check that there are some, with this llmpq."""
    try:
        client.wait_for_workers(1, timeout=CONNECT_S)
    except TimeoutError as error:
        raise InputError(
            f"--scheduler: {address} has no worker; start one with: dask worker {address}"
        ) from error
    try:
        versions = set(client.run(version, "llmpq").values())
    except PackageNotFoundError as error:
        raise InputError(
            f"--scheduler: a worker of {address} lacks llmpq; install {llmpq_sim.__version__} there"
        ) from error
    if versions != {llmpq_sim.__version__}:
        raise InputError(
            f"--scheduler: expected workers with llmpq {llmpq_sim.__version__}, those of {address} "
            f"have {', '.join(sorted(versions))}"
        )
    return int(sum(client.ncores().values()))

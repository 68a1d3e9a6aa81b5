"""Co-runners: the other stages that this machine runs beside the one that is timed."""

from collections.abc import Iterator
from contextlib import contextmanager

from runtimes.profiling.grid import met_by_all
from runtimes.profiling.processor import Target, stage_cores
from runtimes.profiling.task import Task
from runtimes.profiling.workers import answers, workers
from runtimes.torch_pipeline.weights.loading import DTYPE_NAMES

MODULE = "runtimes.profiling.co_runner_worker"


def neighbours_of(target: Target, wanted: int | None) -> int:
    """Return how many more stages of as many cores the machine has room for, or as many as wanted.

    None beside a GPU, whose memory is its own, and none where processes cannot be pinned.
    """
    if target.device.type != "cpu" or not target.all_cores:
        return 0
    room = len(target.all_cores) // target.threads - 1
    return room if wanted is None else min(wanted, room)


@contextmanager
def busy_co_runners(task: Task) -> Iterator[int]:
    """Keep the cores of the other stages busy meanwhile, and say how many stages those are.

    Raises:
        ExecutionError: a process failed to start.
    """
    target = task.target
    count = neighbours_of(target, task.settings.neighbours)
    spec = next(iter(task.models.values())).spec
    told = [
        {
            "cores": list(stage_cores(target.all_cores, number + 1, target.threads)),
            "formats": list(task.formats),
            "dtype": DTYPE_NAMES[task.dtype],
            "shapes": [[linear.out_features, linear.in_features] for linear in met_by_all(spec)],
        }
        for number in range(count)
    ]
    with workers(MODULE, told) as started:
        for worker in started:
            list(answers([worker], 1, "a neighbour"))
        yield count

"""PyTorch runtime: one process for each stage, on GPUs or processor cores."""

from collections.abc import Callable
from pathlib import Path

from llmpq_sim.core.errors import ExecutionError
from llmpq_sim.core.execution import Execution
from llmpq_sim.core.memory import plan_memory
from llmpq_sim.core.units import gib
from llmpq_sim.io.locks import owned_folder
from runtimes.base import (
    Completion,
    Job,
    Progress,
    ignore_completion,
    ignore_progress,
)
from runtimes.torch_pipeline.engine.records import read_records
from runtimes.torch_pipeline.processes.job_building import build_job, check_job, local_stages
from runtimes.torch_pipeline.processes.job_spec import write_job
from runtimes.torch_pipeline.processes.launching import launch
from runtimes.torch_pipeline.processes.monitor import Watch
from runtimes.torch_pipeline.processes.worker_files import MEASURED_FILE

RUN_FOLDER = "llmpq-run-"
"""With which the name of a run's folder begins, among temporary files."""


class TorchRuntime:
    """The runtime that computes."""

    name = "torch"

    def check(self, job: Job) -> None:
        """Check that a job could be run, before anything is loaded.

        Raises:
            LlmpqError: the folder is not of the plan's model, a device is missing or cannot run a
                format, or a request does not fit.
        """
        check_job(job)

    def run(
        self,
        job: Job,
        on_completion: Callable[[Completion], None] = ignore_completion,
        on_progress: Callable[[Progress], None] = ignore_progress,
    ) -> Execution | None:
        """Serve every request and return what was measured; leave no process behind.

        Returns:
            What was measured, or None on a machine that does not run the first stage.

        Raises:
            ExecutionError: a stage died, hangs or has no memory.
            InputError: the model folder lacks something.
        """
        self.check(job)
        with owned_folder(RUN_FOLDER) as folder:
            return self._run_in(folder, job, on_completion, on_progress)

    def _run_in(
        self,
        folder: Path,
        job: Job,
        on_completion: Callable[[Completion], None],
        on_progress: Callable[[Progress], None],
    ) -> Execution | None:
        spec = build_job(job)
        write_job(folder, spec)
        stages = local_stages(job)
        options = job.options
        launcher = launch(folder, stages, options.nodes, options.node_rank, options.master)
        claims = [
            f"at {gib(stage.total_bytes)} GiB of {gib(stage.limit_bytes)}"
            for stage in plan_memory(job.saved.plan, job.saved.task.costs.scenario)
        ]
        names = [stage.name for stage in spec.stages]
        try:
            watch = Watch(launcher, names, claims, len(job.requests), options)
            watch.until_done(on_completion, on_progress)
        finally:
            launcher.stop()
        if 0 not in launcher.processes:
            return None
        measured = folder / MEASURED_FILE
        if not measured.exists():
            raise ExecutionError("the first stage left no measurements")
        run, records = read_records(measured)
        return run.execution(spec.requests, records, spec.dtype)

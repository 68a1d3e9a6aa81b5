"""Deployment of a saved plan on requests, with its results and execution."""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.execution import Execution
from llmpq_sim.core.limits import MOST_TRACE_REQUESTS, check_count
from llmpq_sim.core.records import to_dict
from llmpq_sim.core.trace import TraceWorkload
from llmpq_sim.io.executions import SavedExecution, saved_execution
from llmpq_sim.io.files import check_writable, sha256_of, write_json
from llmpq_sim.io.plans import SavedPlan
from llmpq_sim.io.workloads import DEFAULT_REQUESTS, TraceOptions, load_workload
from llmpq_sim.simulator.continuous.settings import Admission, ContinuousSettings, default_settings
from runtimes.base import (
    Completion,
    Job,
    Policy,
    Progress,
    RuntimeOptions,
    ignore_progress,
    load_runtime,
)
from runtimes.deployment.chat_templates import stop_rendering
from runtimes.deployment.generation_config import TextModel, load_text_model
from runtimes.deployment.job_checks import longest_context_tokens
from runtimes.deployment.request_files import read_requests
from runtimes.deployment.requests import AcceptedRequest, PlanLimits, RequestSet, divided_by_length
from runtimes.deployment.result_files import ResultWriter, open_results
from runtimes.deployment.result_lines import UsageTotals
from runtimes.deployment.synthetic_prompts import batch_requests, trace_requests


@dataclass(frozen=True)
class Deployment:
    """What is to be carried out.

    Attributes:
        saved: the plan.
        runtime: its name.
        model_dir: folder of the model, or None where the runtime needs none.
        requests_file: requests in OpenAI's batch form, or None.
        trace: where synthetic requests come from; None for the plan's own batch.
        policy: how requests are batched; None for what the plan was made for.
        token_budget, sequence_limit, admission, chunk_tokens, batches_in_flight: of continuous
            batching, None for the plan's or the default.
        out: where answers are kept, or None.
        resume: whether answers that are there already are kept and not asked for again.
        seed: of synthetic prompts and of sampling where a request has none.
        options: where and how the runtime runs.
        concurrency: requests in flight of a closed loop, with continuous batching; None where they
            arrive when they do.
    """

    saved: SavedPlan
    runtime: str
    model_dir: Path | None
    requests_file: Path | None
    trace: TraceOptions | None
    policy: Policy | None
    token_budget: int | None
    sequence_limit: int | None
    out: Path | None
    resume: bool
    seed: int
    options: RuntimeOptions = field(default_factory=RuntimeOptions)
    concurrency: int | None = None
    admission: Admission | None = None
    chunk_tokens: int | None = None
    batches_in_flight: int | None = None

    @property
    def chosen_policy(self) -> Policy:
        """How requests are batched: continuously where the plan was made for a trace."""
        if self.policy is not None:
            return self.policy
        return "static" if self.saved.serving is None else "continuous"


@dataclass(frozen=True)
class Outcome:
    """What came of a deployment.

    Attributes:
        saved: the plan.
        measured: the execution with what it is of; None where nothing was left to do, or where
            another machine has it.
        totals: requests and tokens in the file of answers, earlier ones included; None without
            such a file.
        rejected: requests that were refused one by one, with the reason.
        seed: of the deployment.
    """

    saved: SavedPlan
    measured: SavedExecution | None
    totals: UsageTotals | None
    rejected: tuple[tuple[str, str], ...]
    seed: int


def deploy(
    deployment: Deployment, on_progress: Callable[[Progress], None] = ignore_progress
) -> Outcome:
    """Serve all requests that the plan can hold, and keep each answer as it is finished.

    Raises:
        LlmpqError: something is wrong with the input, or a stage failed; answers that were
            finished until then are kept.
    """
    runtime = load_runtime(deployment.runtime)
    model = _text_model(deployment)
    asked = requests_of(deployment, model)
    _check_concurrency(deployment, len(asked.accepted) + len(asked.rejected))
    if deployment.out is not None:
        check_writable(deployment.out)
    with _results(deployment, asked, model) as writer:
        pending: tuple[AcceptedRequest, ...] = asked.accepted if writer is None else writer.pending
        execution: Execution | None = None
        if pending:
            job = _job(deployment, pending)
            runtime.check(job)

            def keep(served: Completion) -> None:
                if writer is not None:
                    writer.write_completion(served)

            execution = runtime.run(job, keep, on_progress)
        totals = None if writer is None else writer.totals
    rejected = tuple(
        (one.name or "a request without a name", one.message) for one in asked.rejected
    )
    measured = None
    if execution is not None:
        policy = deployment.chosen_policy
        execution = _with_rejected(execution, len(rejected))
        measured = saved_execution(
            execution,
            deployment.saved,
            policy,
            _settings(deployment),
            deployment.seed,
            deployment.concurrency,
        )
    return Outcome(deployment.saved, measured, totals, rejected, deployment.seed)


def requests_of(deployment: Deployment, model: TextModel) -> RequestSet:
    """Return the requests of a deployment, those apart that the plan cannot hold.

    Raises:
        InputError: the file of requests or the trace cannot be read.
    """
    limits = plan_limits(deployment)
    if deployment.requests_file is not None:
        try:
            return read_requests(deployment.requests_file, model, limits, deployment.seed)
        finally:
            stop_rendering()
    scenario = deployment.saved.task.costs.scenario
    if deployment.trace is None:
        return divided_by_length(batch_requests(scenario.workload, model, deployment.seed), limits)
    wanted = replace(deployment.trace, requests=deployment.trace.requests or DEFAULT_REQUESTS)
    workload = load_workload(
        wanted, scenario.model.max_positions, len(deployment.saved.plan.stages)
    )
    return divided_by_length(trace_requests(workload, model, deployment.seed), limits)


def plan_limits(deployment: Deployment) -> PlanLimits:
    """Return how long requests may be: for the static policy as long as the plan's batch."""
    scenario = deployment.saved.task.costs.scenario
    if deployment.chosen_policy == "continuous":
        most = longest_context_tokens(scenario, is_continuous=True)
        return PlanLimits(most - 1, most)
    workload = scenario.workload
    return PlanLimits(
        workload.context_tokens - 1, workload.context_tokens, workload.context_tokens - 1
    )


def write_result(path: Path, measured: SavedExecution) -> None:
    """Write what was measured, for ``llmpq compare``.

    Raises:
        InputError: it cannot be written.
    """
    write_json(path, to_dict(measured))


def _text_model(deployment: Deployment) -> TextModel:
    spec = deployment.saved.task.costs.scenario.model
    if deployment.model_dir is not None and not deployment.model_dir.is_dir():
        raise InputError(f"--model-dir: expected a folder, there is none at {deployment.model_dir}")
    model = load_text_model(spec.name, spec.vocab_size, deployment.model_dir)
    return replace(model, stored=_stored(deployment))


def _stored(deployment: Deployment) -> str:
    """Return a hash of the weight formats of the layers, and of what computes."""
    saved = deployment.saved
    formats = list(saved.plan.layer_formats)
    return sha256_of([formats, saved.quantizers, deployment.options.dtype, deployment.runtime])


def _results(
    deployment: Deployment, asked: RequestSet, model: TextModel
) -> "ResultWriter | nullcontext[None]":
    if deployment.out is None:
        if deployment.resume:
            raise InputError("--resume: give the file of answers with --out")
        return nullcontext()
    return open_results(deployment.out, asked, model, resume=deployment.resume)


def _job(deployment: Deployment, pending: tuple[AcceptedRequest, ...]) -> Job:
    return Job(
        saved=deployment.saved,
        requests=tuple(item.tokens for item in pending),
        model_dir=deployment.model_dir,
        policy=deployment.chosen_policy,
        settings=_settings(deployment),
        options=deployment.options,
        concurrency=deployment.concurrency,
    )


def _check_concurrency(deployment: Deployment, requests: int) -> None:
    """Raise InputError for a closed loop of nobody, or of more than there are requests."""
    if deployment.concurrency is None:
        return
    check_count("--concurrency", deployment.concurrency, MOST_TRACE_REQUESTS, "in flight")
    if deployment.trace is not None and deployment.trace.rate_per_s is not None:
        raise InputError(
            "--concurrency: requests of a closed loop arrive as others end, so --rate says "
            "nothing; give one of the two"
        )
    if deployment.concurrency > requests:
        raise InputError(
            f"--concurrency: expected at most as many in flight as there are requests, {requests}, "
            f"got {deployment.concurrency}; give more requests"
        )


def _settings(deployment: Deployment) -> ContinuousSettings | None:
    """Return the settings of continuous batching, as given, then as planned, then by default."""
    if deployment.chosen_policy == "static":
        for name, value in (
            ("--token-budget", deployment.token_budget),
            ("--sequence-limit", deployment.sequence_limit),
            ("--concurrency", deployment.concurrency),
            ("--admission", deployment.admission),
            ("--chunk-tokens", deployment.chunk_tokens),
            ("--batches-in-flight", deployment.batches_in_flight),
        ):
            if value is not None:
                raise InputError(f"{name}: is of continuous batching; give --policy continuous")
        return None
    model = deployment.saved.task.costs.scenario.model
    planned = deployment.saved.serving
    if planned is None:
        planned = default_settings(model, _any_trace())
    budget = deployment.token_budget or planned.token_budget
    limit = deployment.sequence_limit or min(planned.sequence_limit, budget)
    return replace(
        planned,
        token_budget=budget,
        sequence_limit=limit,
        prefix_caching=False,
        admission=deployment.admission or planned.admission,
        chunk_tokens=deployment.chunk_tokens or planned.chunk_tokens,
        batches_in_flight=deployment.batches_in_flight or planned.batches_in_flight,
    )


def _any_trace() -> TraceWorkload:
    """Return a trace that shares no prefixes, which is all that default settings ask of one."""
    import numpy as np  # noqa: PLC0415 - nothing else here needs it

    one = np.ones(1, np.int64)
    return TraceWorkload("any", np.zeros(1), one, one)


def _with_rejected(execution: Execution, rejected: int) -> Execution:
    """Count those that were rejected before the runtime saw them."""
    result = execution.result
    counted = replace(
        result, requests=result.requests + rejected, refused=result.refused + rejected
    )
    return replace(execution, result=counted)

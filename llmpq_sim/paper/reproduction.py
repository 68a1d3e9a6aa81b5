"""Run of the paper's evaluation, case by case, with its report in a folder."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

from llmpq_sim.core.errors import InputError
from llmpq_sim.io.files import write_json, write_text
from llmpq_sim.paper.ablation_plot import write_ablation_plot
from llmpq_sim.paper.ablation_report import ablations_content, ablations_csv, ablations_markdown
from llmpq_sim.paper.case_cache import Content
from llmpq_sim.paper.case_files import (
    ABLATIONS,
    CASES,
    EVOLUTIONS,
    ON_TRACES,
    THETAS,
    AnyCase,
    results_of,
)
from llmpq_sim.paper.cases import Case
from llmpq_sim.paper.evolution import MIX_OF_TRACE, Mix
from llmpq_sim.paper.logged import LoggedPrediction, predict_logged_plans
from llmpq_sim.paper.plots import write_plots
from llmpq_sim.paper.report import csv_text, markdown, reproduction_content

Job = tuple[str, AnyCase]
"""What is wanted of a case: see `case_files`."""


def checked_gamma(gamma: float) -> float:
    """Return the share of the output that is generated.

    Raises:
        InputError: it is not above 0 and at most 1, or leaves fewer than two tokens.
    """
    if not 0.02 <= gamma <= 1:
        raise InputError(f"--gamma: expected a share from 0.02 to 1, got {gamma:g}")
    return gamma


def reproduce_cases(
    cases: list[Case], folder: Path | None, workers: int, on_step: Callable[[str], None]
) -> tuple[list[Content], list[LoggedPrediction]]:
    """Return the results of all cases in order, and the predictions of logged plans.

    Args:
        cases: what is evaluated.
        folder: keeps each case as it is finished, so that an interrupted run is taken up again;
            made if it is missing. None keeps nothing.
        workers: processes that plan at once; they do not change the results.
        on_step: told how many cases are done.

    Raises:
        InputError: bundled data or a kept file cannot be read, or a file cannot be written.
    """
    jobs: list[Job] = [(CASES, case) for case in cases]
    return _done(jobs, folder, workers, on_step), predict_logged_plans()


def ablate_cases(
    cases: list[Case],
    mixes: Sequence[Mix],
    folder: Path | None,
    workers: int,
    on_step: Callable[[str], None],
) -> list[Content]:
    """Return the results of the ablations of all cases in order, those of mixes last.

    Args:
        cases: what is planned.
        mixes: what the genetic search is tried on beside them; one also serves a trace.
        folder: keeps the ablations and the thetas of each case, as `reproduce_cases` does.
        workers: processes that plan at once; they do not change the results.
        on_step: told how many of them are done.

    Raises:
        InputError: bundled data or a kept file cannot be read, or a file cannot be written.
    """
    jobs: list[Job] = [(kind, case) for case in cases for kind in (ABLATIONS, EVOLUTIONS, THETAS)]
    jobs += [(EVOLUTIONS, mix) for mix in mixes]
    jobs += [(ON_TRACES, mix) for mix in mixes if mix == MIX_OF_TRACE]
    return _done(jobs, folder, workers, on_step)


def write_reproduction(
    folder: Path, results: list[Content], logged: list[LoggedPrediction]
) -> None:
    """Write report.md, results.json, results.csv and, where Matplotlib is, a plot per cluster.

    Raises:
        InputError: a file cannot be written.
    """
    write_json(_made(folder) / "results.json", reproduction_content(results, logged))
    write_text(folder / "results.csv", csv_text(results))
    text = markdown(results, logged)
    if find_spec("matplotlib") is not None:
        names = write_plots(folder, results)
        text += "\n## Plots\n\n" + "\n".join(f"![{name}]({name})" for name in names) + "\n"
    write_text(folder / "report.md", text)


def write_ablations(folder: Path, results: list[Content]) -> None:
    """Write ablations.md, ablations.json, ablations.csv and, where Matplotlib is, a plot.

    Raises:
        InputError: a file cannot be written.
    """
    write_json(_made(folder) / "ablations.json", ablations_content(results))
    write_text(folder / "ablations.csv", ablations_csv(results))
    text = ablations_markdown(results)
    if find_spec("matplotlib") is not None:
        write_ablation_plot(folder / "ablations.svg", results)
        text += "\n## Plot\n\n![ablations.svg](ablations.svg)\n"
    write_text(folder / "ablations.md", text)


def _done(
    jobs: list[Job], folder: Path | None, workers: int, on_step: Callable[[str], None]
) -> list[Content]:
    """Return the results of all jobs in order, each kind kept in a folder of its own."""
    from joblib import Parallel, delayed

    kept = {kind: None if folder is None else _made(folder / kind) for kind, _ in jobs}
    parallel = Parallel(n_jobs=min(workers, len(jobs)), return_as="generator")
    results: list[Content] = []
    on_step(f"planning: 0 of {len(jobs)} done")
    found = parallel(delayed(results_of)(kind, case, kept[kind]) for kind, case in jobs)
    for number, (own, (kind, case)) in enumerate(zip(found, jobs, strict=True), start=1):
        results += own
        on_step(f"planning: {number} of {len(jobs)} done, last {kind} of {case.label}")
    return results


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None
    return folder

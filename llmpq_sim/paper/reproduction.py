"""How is the paper's evaluation run case by case, and its report written to a folder?"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

from llmpq_sim.errors import InputError
from llmpq_sim.files import write_json, write_text
from llmpq_sim.paper.ablations import Ablated, ablate
from llmpq_sim.paper.case_files import Content, results_of
from llmpq_sim.paper.cases import Case
from llmpq_sim.paper.logged import LoggedPrediction, predict_logged_plans
from llmpq_sim.paper.plots import write_plots
from llmpq_sim.paper.report import csv_text, markdown, reproduction_content

CASES_FOLDER = "cases"


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
    from joblib import Parallel, delayed

    kept = None if folder is None else _made(folder / CASES_FOLDER)
    jobs = Parallel(n_jobs=min(workers, len(cases)), return_as="generator")
    results: list[Content] = []
    on_step(f"planning {len(cases)} cases")
    for number, own in enumerate(jobs(delayed(results_of)(case, kept) for case in cases), start=1):
        results += own
        on_step(f"{number} of {len(cases)} cases done")
    return results, predict_logged_plans()


def ablate_cases(
    cases: list[Case], workers: int, on_step: Callable[[str], None]
) -> list[tuple[Case, list[Ablated]]]:
    """Return the ablations of all cases in order.

    Args:
        cases: what is planned.
        workers: processes that plan at once; they do not change the results.
        on_step: told how many cases are done.

    Raises:
        InputError: bundled data cannot be read.
    """
    from joblib import Parallel, delayed

    jobs = Parallel(n_jobs=min(workers, len(cases)), return_as="generator")
    found = []
    on_step(f"leaving decisions out of {len(cases)} cases")
    for case, ablated in zip(cases, jobs(delayed(ablate)(case) for case in cases), strict=True):
        found.append((case, ablated))
        on_step(f"{len(found)} of {len(cases)} cases done")
    return found


def write_reproduction(
    folder: Path, results: list[Content], logged: list[LoggedPrediction]
) -> None:
    """Write report.md, results.json, results.csv and, where Matplotlib is, a plot per cluster.

    Raises:
        InputError: a file cannot be written.
    """
    _made(folder)
    write_json(folder / "results.json", reproduction_content(results, logged))
    write_text(folder / "results.csv", csv_text(results))
    text = markdown(results, logged)
    if find_spec("matplotlib") is not None:
        names = write_plots(folder, results)
        text += "\n## Plots\n\n" + "\n".join(f"![{name}]({name})" for name in names) + "\n"
    write_text(folder / "report.md", text)


def _made(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {folder}: {error.strerror}") from None
    return folder

import subprocess
import sys
from io import StringIO

import pytest
from rich.console import Console

from llmpq_sim.report.progress import best_text, progress_bar, steps_shown
from llmpq_sim.search.frame import SearchProgress
from tests.reports import paper, written


def test_progress_names_the_step_and_the_best_plan_so_far() -> None:
    console = Console(file=StringIO(), width=88, force_terminal=True, color_system=None)
    with progress_bar(True, console) as show:
        show(SearchProgress("generations", 3, 40, 225.26))
    assert "improving plans" in written(console)
    assert "3/40" in written(console)
    assert "225.3 tokens/s so far" in written(console)


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_drawn_where_nobody_watches(enabled: bool) -> None:
    console = paper()
    with progress_bar(enabled, console) as show:
        show(SearchProgress("bound", 0, 10, None))
    with steps_shown(enabled, console) as tell:
        tell("fitting int4")
    assert written(console) == ""


def test_before_the_first_plan_there_is_no_throughput() -> None:
    assert best_text(SearchProgress("bound", 0, 10, None)) == ""


def test_steps_are_named_one_after_another() -> None:
    console = Console(file=StringIO(), width=88, force_terminal=True, color_system=None)
    with steps_shown(True, console) as tell:
        tell("fitting int4")
    assert "fitting int4" in written(console)


CODE = """
import ctypes, sys
from llmpq_sim.report.progress import native_output_on_stderr
print("before")
with native_output_on_stderr():
    ctypes.CDLL(None).puts(b"from C")
print("after")
"""


def test_what_c_prints_goes_to_stderr_and_the_rest_stays_in_order() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    assert done.stdout == "before\nafter\n"
    assert done.stderr == "from C\n"

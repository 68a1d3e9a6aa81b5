"""SIGTERM interrupts as Ctrl-C does, and has an exit code of its own."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from llmpq_sim.io.termination import Termination, interrupted_by_sigterm

ROOT = Path(__file__).resolve().parents[2]


def test_sigterm_raises_an_interruption_while_it_is_wanted() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt) as raised, interrupted_by_sigterm():
        signal.raise_signal(signal.SIGTERM)
    assert isinstance(raised.value, Termination)
    assert raised.value.exit_code == 143
    assert signal.getsignal(signal.SIGTERM) is before


def test_what_is_left_is_cleaned_up(tmp_path: Path) -> None:
    code = (
        "import sys, signal\n"
        "from pathlib import Path\n"
        "from llmpq_sim.io.files import whole_file\n"
        "from llmpq_sim.io.termination import interrupt_on_sigterm\n"
        "interrupt_on_sigterm()\n"
        "with whole_file(Path(sys.argv[1]) / 'plan.json') as stream:\n"
        "    print('writing', flush=True)\n"
        "    signal.pause()\n"
    )
    writer = subprocess.Popen(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    writer.terminate()
    writer.communicate()
    assert list(tmp_path.iterdir()) == []

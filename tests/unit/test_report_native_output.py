import subprocess
import sys

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

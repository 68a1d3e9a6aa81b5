"""Settings of property tests: no limits on time, and in CI the same examples each run."""

import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

from runtimes.deployment import chat_templates

CORES, WORKERS = os.cpu_count() or 1, int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
SHARE = max(1, CORES // WORKERS)
os.environ["OMP_NUM_THREADS"] = str(min(SHARE, int(os.environ.get("OMP_NUM_THREADS", SHARE))))
"""Test workers share out the cores: threads that wait for a core spin, and take it from others."""

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # begun in the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)  # what tests start could not be ended

HERE = Path(".hypothesis")

if not os.access(HERE if HERE.exists() else Path(), os.W_OK):  # a checkout that is only read
    set_hypothesis_home_dir(tempfile.mkdtemp(prefix="llmpq-hypothesis-"))

settings.register_profile(
    "llmpq",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
    print_blob=True,
)
settings.load_profile("llmpq")


@pytest.fixture(scope="module", autouse=True)
def no_process_stays() -> Iterator[None]:
    """End the processes that render templates and simulate, which the next tests would see."""
    yield
    chat_templates.stop_rendering()
    if "joblib.externals.loky" in sys.modules:  # its workers wait for five minutes
        from joblib.externals.loky import get_reusable_executor

        get_reusable_executor().shutdown()

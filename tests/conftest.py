"""Settings of property tests: no limits on time, and in CI the same examples each run."""

import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir

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

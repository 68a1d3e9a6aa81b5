"""Settings of property tests: no limits on time, and in CI the same examples each run."""

import os

from hypothesis import HealthCheck, settings

settings.register_profile(
    "llmpq",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
    print_blob=True,
)
settings.load_profile("llmpq")

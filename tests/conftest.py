"""Settings of property tests: no limits on time, and in CI the same examples each run.

In a checkout that cannot be written, examples that failed are kept in memory and what is computed
once in a temporary folder; warnings that nothing could be written would be errors.
"""

import os
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.database import InMemoryExampleDatabase

CAN_BE_WRITTEN = os.access(Path(__file__).parents[1], os.W_OK)

if not CAN_BE_WRITTEN:
    set_hypothesis_home_dir(Path(tempfile.gettempdir()) / f"hypothesis-{os.getuid()}")

settings.register_profile(
    "llmpq",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
    derandomize=os.environ.get("CI") == "true",
    print_blob=True,
)
settings.register_profile(
    "llmpq-unwritten", settings.get_profile("llmpq"), database=InMemoryExampleDatabase()
)
settings.load_profile("llmpq" if CAN_BE_WRITTEN else "llmpq-unwritten")

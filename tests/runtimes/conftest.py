"""Fixtures of all tests of runtimes."""

from collections.abc import Iterator

import pytest

from runtimes.deployment.chat_templates import stop_rendering


@pytest.fixture(scope="module", autouse=True)
def no_process_stays() -> Iterator[None]:
    """End the process that renders chat templates, which would be there for the next tests."""
    yield
    stop_rendering()

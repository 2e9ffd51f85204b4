"""What every test gets: random cases that repeat in CI, and a log warning that counts as a failure."""

import logging
import os

import pytest
from hypothesis import settings

GDAL = "rasterio._env"
"""Where GDAL's remarks on the files it is given go: they speak of somebody's file, not of this code."""

settings.register_profile("desk", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("ci" if os.environ.get("CI") else "desk")


@pytest.fixture(autouse=True)
def no_log_warnings(caplog):
    """Fail a test in which a library logged a warning or worse: what nobody reads goes wrong unseen."""
    yield
    said = [
        f"{r.name}: {r.getMessage()}"
        for when in ("setup", "call")
        for r in caplog.get_records(when)
        if r.levelno >= logging.WARNING and r.name != GDAL
    ]
    assert not said, "logged in this test:\n" + "\n".join(said)

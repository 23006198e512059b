"""Jobs drawn at random come out as a plain-Python model of the rules says: outcomes, failures, calls, payloads, rows.

``MODEL_JOBS`` says how many (1,000), ``MODEL_SEED`` which is the first (0): a seed always gives the same job, whatever
the order of the tests. What differs is shown with its seed and its job; ``MODEL_SEED=<seed> MODEL_JOBS=1`` repeats it.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from tests.properties.model.draw import draw
from tests.properties.model.run import differences

FIRST = int(os.environ.get("MODEL_SEED", "0"))
JOBS = int(os.environ.get("MODEL_JOBS", "1000"))
AT_A_TIME = max(1, min(50, JOBS // 8))
"""Jobs of a test: what xdist gives to its workers."""


@pytest.fixture(autouse=True)
def _quiet():
    """A log of thousands of failures that are meant."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.timeout(3_600)
@pytest.mark.parametrize("first", range(FIRST, FIRST + JOBS, AT_A_TIME))
def test_jobs_come_out_as_the_model_says(first: int, tmp_path: Path) -> None:
    for seed in range(first, min(first + AT_A_TIME, FIRST + JOBS)):
        job, folder = draw(seed), tmp_path / str(seed)
        folder.mkdir()
        try:
            found = list(differences(job, folder))
        except Exception as error:
            error.add_note(f"MODEL_SEED={seed}: {job.show()}")
            raise
        assert not found, "\n".join([f"MODEL_SEED={seed} MODEL_JOBS=1 repeats it", job.show(), *found])

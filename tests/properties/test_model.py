"""Jobs drawn at random come out as a plain-Python model of the rules says: outcomes, failures, calls, payloads, rows.

``MODEL_JOBS`` says how many (100; in CI 1,000), ``MODEL_SEED`` which is the first (0): a seed always gives the same
job, whatever the order of the tests. What differs is shown with its seed and its job, and with the smallest job that
differs too. ``MODEL_SEED=<seed> MODEL_JOBS=1`` repeats it.
"""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path

import pytest

from tests.properties.model.draw import draw
from tests.properties.model.plan import Job
from tests.properties.model.run import differences
from tests.properties.model.shrink import shrink

FIRST = int(os.environ.get("MODEL_SEED", "0"))
JOBS = int(os.environ.get("MODEL_JOBS", "100"))
AT_A_TIME = max(1, min(50, JOBS // 8))
"""Jobs of a test: what xdist gives to its workers."""


@pytest.fixture(autouse=True)
def _quiet():
    """Without a log of thousands of failures that are meant."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def wrong(job: Job, folder: Path) -> list[str]:
    """What is wrong with a job; an error that nobody expects is, too."""
    folder.mkdir()
    try:
        return list(differences(job, folder))
    except Exception as error:  # noqa: BLE001  # any is a find
        return [f"{type(error).__name__}: {error}"]
    finally:
        shutil.rmtree(folder)


@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("first", range(FIRST, FIRST + JOBS, AT_A_TIME))
def test_jobs_come_out_as_the_model_says(first: int, tmp_path: Path) -> None:
    for seed in range(first, min(first + AT_A_TIME, FIRST + JOBS)):
        if found := wrong(draw(seed), tmp_path / "job"):
            small = shrink(draw(seed), lambda job: bool(wrong(job, tmp_path / "job")))
            smaller = wrong(small, tmp_path / "job")
            pytest.fail(
                "\n".join(
                    [
                        f"MODEL_SEED={seed} MODEL_JOBS=1 repeats it",
                        draw(seed).show(),
                        *found,
                        "",
                        small.show(),
                        *smaller,
                    ]
                ),
                pytrace=False,
            )

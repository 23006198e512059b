"""The account of an instance does not depend on how many records are looked at at a time."""

from __future__ import annotations

from contextlib import closing

import numpy as np
import pytest

from batch_provider import BatchJob
from batch_provider.domain.layout import Span
from batch_provider.engine.complete.account import reconcile
from batch_provider.engine.complete.complete import seal_all
from batch_provider.storage.instances.completion import Completion
from batch_provider.storage.views.ledger import live_ledger
from batch_provider.testing import LocalRun
from tests.builders import Step, numbers


def redriven(*, fused):
    """A job whose first step has made records again that the step after it has not: these are late."""
    first = Step(fails={2, 3, 11}, returns=lambda record: {"m": record["n"]})
    job = BatchJob("job", max_failed_records=-1, max_redrives=1, block_size=3, fuse_steps=fused)
    job.step(first, name="first")
    job.step(Step(fails={5, 12}), name="second", accept_expression="n <> 7")
    job.aggregator("group", size=2)(lambda records: None)
    run = LocalRun(job.spec, shards=2)
    run.run([*numbers(13), {"n": "?"}])
    run.next_round()
    first.fails = {3}
    for shard in run.generation.manifest.shards:
        run.process(run.job.steps[0] if not fused else run_first(run), shard.id)
    return run


def run_first(run):
    from batch_provider.domain.fused import checkpoint_steps

    return checkpoint_steps(run.job)[0]


def as_dict(account):
    found = dict(vars(account))
    for name in ("late", "outcomes"):
        found[name] = {key: array.tolist() for key, array in found[name].items()}
    return found


fused = pytest.mark.parametrize("fused", [pytest.param(False, id="per step"), pytest.param(True, id="fused")])
window = pytest.mark.parametrize("window_rows", [1, 3, 4, 100])


@fused
@window
def test_reconciled_in_windows_of_any_size(fused, window_rows):
    run = redriven(fused=fused)
    store = Completion(run.generation)
    closes = seal_all(store, run.info)

    whole, account = reconcile(store, closes, 1), reconcile(store, closes, 1, window_rows)

    assert as_dict(account) == as_dict(whole)
    assert (whole.successful + whole.failed + whole.not_run, whole.failed) == (14, 4)
    assert fused or any(late.any() for late in whole.late.values())
    assert all(isinstance(late, np.ndarray) for late in whole.late.values())


@fused
@window
def test_the_ledger_in_windows_of_any_size(fused, window_rows):
    generation = redriven(fused=fused).generation
    questions = (
        "SELECT * FROM outcomes ORDER BY ALL",
        "SELECT * FROM failures ORDER BY ALL",
        "SELECT * FROM records ORDER BY ALL",
    )
    with closing(live_ledger(generation)) as whole, closing(live_ledger(generation, window_rows)) as ledger:
        for question in questions:
            assert ledger.execute(question).fetchall() == whole.execute(question).fetchall()


def test_windows_tile_a_span():
    assert list(Span(3, 9).windows(3)) == [Span(3, 5), Span(6, 8), Span(9, 9)]
    assert list(Span(3, 5).windows(3)) == [Span(3, 5)]

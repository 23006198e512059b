"""``output="replace"`` over runs of calls whose payloads differ in their keys: each record has its own."""

from __future__ import annotations

import pytest

from batch_provider import BatchJob
from batch_provider.engine.columns.block import OBJECT_ROWS
from batch_provider.testing import LocalRun


@pytest.mark.parametrize("plain", [True, False])
@pytest.mark.parametrize("failing", [set(), {0}, {1}, {OBJECT_ROWS + 1}])
def test_each_record_has_its_own_payload_however_many_runs_there_are(plain, failing):
    count = 2 * OBJECT_ROWS + 10

    def payload(n):
        return {"id": n, ("first" if n < OBJECT_ROWS else "second" if n < 2 * OBJECT_ROWS else "third"): n}

    with BatchJob("j", max_failed_records=-1, block_size=count) as job:

        def whole(record):
            n = record["n"]
            return {"id": n, "first": object()} if n in failing else payload(n)

        def named(record, *, record_id):
            return whole(record)

        job.step(output="replace")(whole if plain else named)

    run = LocalRun(job.spec)
    run.run([{"n": n} for n in range(count)])

    found = run.output()
    for n, row in enumerate(found):
        expected = {"n": n} if n in failing else payload(n)
        assert {name: value for name, value in row.items() if value is not None} == expected


def test_a_payload_that_cannot_be_kept_leaves_the_record_as_it_came():
    with BatchJob("j", max_failed_records=-1) as job:

        @job.step(output="replace")
        def whole(record):
            return {"id": object()} if record["id"] == 0 else dict(record)

    run = LocalRun(job.spec)
    run.run([{"id": 0, "n": 5}, {"id": 1, "n": 6}])

    assert run.output() == [{"id": 0, "n": 5}, {"id": 1, "n": 6}]

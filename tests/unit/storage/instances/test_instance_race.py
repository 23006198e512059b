"""Runs that claim one instance id at the same moment, in processes of their own: never do two of them own it."""

from __future__ import annotations

import json
import multiprocessing

from batch_provider.domain.errors import DuplicateInstanceError
from batch_provider.domain.instance import AttemptInfo, JobInstance
from batch_provider.engine.ports.clock import SystemClock
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.instances.store import InstanceStore, LoadWork

ROUNDS, RIVALS = 150, 3


def _claim_all(root, number, start, out):
    for again in range(ROUNDS):
        dag_id = f"dag-{number}" if again % 2 else "dag"  # of one DAG or of several
        owner = JobInstance(f"orders-{again}", dag_id, f"run-{number}", "orders")
        store = InstanceStore(LocalBlobs(root), SystemClock(), owner)
        start.wait()
        try:
            work = store.begin_load(AttemptInfo())
        except DuplicateInstanceError:
            out.put((again, number, False))
        else:
            assert isinstance(work, LoadWork)
            out.put((again, number, True))


def test_two_runs_never_own_one_instance(tmp_path):
    context = multiprocessing.get_context("fork")
    out, start = context.Queue(), context.Barrier(RIVALS)
    rivals = [context.Process(target=_claim_all, args=(tmp_path, number, start, out)) for number in range(RIVALS)]
    for rival in rivals:
        rival.start()
    answers = [out.get(timeout=120) for _ in range(ROUNDS * RIVALS)]
    for rival in rivals:
        rival.join()
    winners = {again: [number for other, number, won in answers if other == again and won] for again in range(ROUNDS)}
    assert {again: won for again, won in winners.items() if len(won) > 1} == {}
    assert any(winners.values()), "and some come through"
    for again, won in winners.items():  # whoever was refused has left nothing
        left = [json.loads(path.read_text()) for path in tmp_path.rglob(f"orders-{again}/load/*.json")]
        assert [each["instance"]["run_id"] for each in left] == [f"run-{number}" for number in won]

"""The trigger that waits for a turn; tests/integration has it wait for real runs."""

from __future__ import annotations

import asyncio

import pytest
from airflow.sdk._shared.module_loading import import_string

from batch_provider import wiring
from batch_provider.domain.errors import StorageError
from batch_provider.domain.instance import JobInstance
from batch_provider.operators.triggers import BatchTurnTrigger


@pytest.fixture(autouse=True)
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("AIRFLOW__BATCH_PROVIDER__STORAGE_PATH", str(tmp_path))


def fire(trigger):
    return asyncio.run(anext(trigger.run()))


def test_it_survives_the_way_to_the_triggerer():
    trigger = BatchTurnTrigger("d", "j", "000001-0a0b0c0d", "g1-0a0b0c0d", seconds=2.5)
    path, facts = trigger.serialize()
    again = import_string(path)(**facts)
    assert again.serialize() == (path, facts)
    assert facts["seconds"] == 2.5


def test_it_fires_when_nobody_is_ahead():
    ticket = wiring.tickets("d", "j").take(JobInstance("i", "d", "run", "j"), "g1-0a0b0c0d")
    event = fire(BatchTurnTrigger("d", "j", str(ticket.id), "g1-0a0b0c0d"))
    assert event.payload == {"generation": "g1-0a0b0c0d"}


def test_a_triggerer_that_does_not_see_the_store_fails_the_task_instead_of_going_on():
    with pytest.raises(StorageError, match="must be the same for workers and triggerer"):
        fire(BatchTurnTrigger("d", "j", "000001-0a0b0c0d", "g1-0a0b0c0d"))

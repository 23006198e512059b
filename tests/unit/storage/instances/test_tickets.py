"""Whose turn it is: races for tickets, retries, instances that were purged."""

from __future__ import annotations

import multiprocessing

import pytest

from batch_provider.domain.errors import StorageError
from batch_provider.domain.instance import JobInstance
from batch_provider.domain.layout import ClaimId
from batch_provider.storage.blobs.local import LocalBlobs
from batch_provider.storage.blobs.memory import MemoryBlobs
from batch_provider.storage.instances.tickets import Tickets


def instance(number):
    return JobInstance(f"i{number}", "d", f"run-{number}", "j")


def ahead(line, ticket):
    return [other.run_id for other in line.before(ticket.id)]


def test_whoever_loaded_before_comes_first():
    line = Tickets(MemoryBlobs(), "d", "j")
    first, second, third = (line.take(instance(number), "g1-00000000", "j.on_complete") for number in range(3))
    assert ahead(line, first) == []
    assert ahead(line, second) == ["run-0"]
    assert ahead(line, third) == ["run-0", "run-1"]
    assert line.before(second.id)[0].last_task == "j.on_complete"


def test_an_instance_that_loads_again_goes_to_the_end():
    line = Tickets(MemoryBlobs(), "d", "j")
    line.take(instance(0), "g1-00000000")
    second = line.take(instance(1), "g1-00000000")
    again = line.take(instance(0), "g2-00000000")
    assert ahead(line, second) == []
    assert ahead(line, again) == ["run-1"]


def test_a_ticket_that_a_killed_attempt_left_behind_holds_nobody_up():
    blobs = MemoryBlobs()
    line = Tickets(blobs, "d", "j")
    left = line.take(instance(0), "g1-00000000")
    raw = bytes(blobs.get(f"v1/d/j/.tickets/{left.id}.json"))
    middle = line.take(instance(1), "g1-00000000")
    line.take(instance(0), "g1-00000000")
    blobs.put(f"v1/d/j/.tickets/{left.id}.json", raw)  # written late, by what is left of the first attempt
    assert ahead(line, middle) == [], "its highest ticket counts, or both would wait for each other"


def test_other_jobs_have_their_own_line():
    blobs = MemoryBlobs()
    Tickets(blobs, "d", "other").take(instance(0), "g1-00000000")
    line = Tickets(blobs, "d", "j")
    assert ahead(line, line.take(instance(1), "g1-00000000")) == []


def test_what_was_purged_is_forgotten():
    line = Tickets(MemoryBlobs(), "d", "j")
    line.take(instance(0), "g1-00000000")
    own = line.take(instance(1), "g1-00000000")
    line.forget("i0")
    assert ahead(line, own) == []


def test_a_process_that_does_not_see_the_store_says_so_instead_of_going_on():
    with pytest.raises(StorageError, match="does not see the store of the worker"):
        Tickets(MemoryBlobs(), "d", "j").before(ClaimId(1, "0a0b0c0d"))


def test_whoever_is_overtaken_while_he_takes_one_takes_another():
    class Overtaken(MemoryBlobs):
        rival = True

        def put(self, name, data, **options):
            super().put(name, data, **options)
            if self.rival and name.endswith(".json"):
                self.rival = False
                later = name.replace(name[-13:-5], "ffffffff")
                super().put(later, bytes(data).replace(b'"i1"', b'"i2"').replace(b"run-1", b"run-2"))

    line = Tickets(Overtaken(), "d", "j")
    own = line.take(instance(1), "g1-00000000")
    assert own.id.epoch == 2
    assert ahead(line, own) == ["run-2"]


def _take_many(root, number, out):
    line = Tickets(LocalBlobs(root), "d", "j")
    for again in range(20):
        own = line.take(instance(f"{number}-{again}"), "g1-00000000")
        out.put((str(own.id), own.instance_id, [other.instance_id for other in line.before(own.id)]))


def test_of_two_that_race_the_later_one_has_seen_the_earlier_one(tmp_path):
    context = multiprocessing.get_context("fork")
    out = context.Queue()
    racers = [context.Process(target=_take_many, args=(tmp_path, number, out)) for number in range(4)]
    for racer in racers:
        racer.start()
    taken = sorted(out.get(timeout=60) for _ in range(80))
    for racer in racers:
        racer.join()
    seen = []
    for _, own, before in taken:
        assert [each for each in seen if each not in before] == []
        seen.append(own)

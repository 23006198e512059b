"""The generated views say what the ledger and the steps' own reader say, of finished and unfinished instances."""

from __future__ import annotations

from contextlib import closing, suppress

import pyarrow as pa
from hypothesis import example, given
from hypothesis import strategies as st

from batch_provider import AcceptPolicy
from batch_provider.engine.columns.kept import kept_values
from batch_provider.engine.columns.rows import to_python
from batch_provider.storage.reading.chain import ChainReader
from batch_provider.storage.views.instance_view import InstanceView
from tests.builders import Killed
from tests.properties.test_invariants import Killer, Plan, StepPlan, drifting_plans, few, job_of_plan, load

FIXED = {"_id", "_kept", "outcome", "failed", "error_type", "error_message", "_line", "_raw"}


def present(row):
    return {name: value for name, value in row.items() if value is not None}


def payload_rows(table):
    """Id → payload with what was kept aside, without nulls: tables may differ in columns that are empty."""
    kept = kept_values(table["_kept"]) if "_kept" in table.column_names else {}
    names = [name for name in table.column_names if name not in FIXED | {"_status", "_out", "_in", "_error", "_vars"}]
    rows = zip(*(to_python(table[name]) for name in names), strict=True) if names else [()] * table.num_rows
    payloads = [present(dict(zip(names, row, strict=True)) | kept.get(at, {})) for at, row in enumerate(rows)]
    return dict(zip(to_python(table["_id"]), payloads, strict=True))


def as_read(run, step):
    """Id → payload in the files that count, read as steps read them."""
    found = {}
    generation = run.generation
    names = [entry["name"] for entry in generation.manifest.steps]
    for shard in generation.manifest.shards:
        layers = [generation.reader(shard.id, None).layers[0]]
        chain = names[: names.index(step) + 1]
        layers += [generation.layer(name, shard.id, generation.current_files(name, shard.id)) for name in chain]
        for file in layers[-1].files:
            found |= payload_rows(ChainReader(layers, shard.id, shard.span).read(file.span))
    return found


def check(run):
    ledger = {
        (step, record): outcome for step, record, outcome in run.query("SELECT step, record_id, outcome FROM outcomes")
    }
    errors = run.query("SELECT step, record_id, error_type, message FROM failures")
    with closing(InstanceView(run.store).connect()) as connection:
        shown: dict[tuple[str, int], str] = {}
        for step in ["input", *(entry["name"] for entry in run.generation.manifest.steps)]:
            table: pa.Table = connection.sql(f'SELECT * FROM "{step}"').to_arrow_table()
            rows = table.select(["_id", "outcome", "failed", "error_type", "error_message"]).to_pylist()
            shown |= {(step, row["_id"]): row["outcome"] for row in rows}
            assert len(rows) == run.generation.manifest.total
            ran = {row["_id"] for row in rows if row["outcome"] != "NOT_RUN"}
            assert sorted(
                (row["_id"], row["error_type"], row["error_message"]) for row in rows if row["error_type"]
            ) == sorted(error[1:] for error in errors if error[0] == step)
            if step != "input":
                payloads, expected = payload_rows(table), as_read(run, step)
                assert {id_: payloads[id_] for id_ in ran} == {id_: expected[id_] for id_ in ran}
                assert all(payloads[id_] == {} for id_ in payloads.keys() - ran)
    assert shown == ledger


@few
@given(
    plan=drifting_plans,
    block_size=st.sampled_from([1, 3, 100]),
    shards=st.integers(1, 3),
    kills=st.lists(st.integers(0, 20), max_size=2),
    redrive=st.booleans(),
)
@example(
    plan=Plan(6, (StepPlan(AcceptPolicy.ALL, None, frozenset({1, 5}), frozenset({1, 2}), frozenset(), "a", None),) * 2),
    block_size=3,
    shards=1,
    kills=[],
    redrive=True,
)
def test_views_agree_with_the_ledger_and_the_reader(plan, block_size, shards, kills, redrive):
    killer = Killer()
    run = load(plan, block_size=block_size, shards=shards, killer=killer)
    check(run)
    for at in kills:
        killer.left = at
        with suppress(Killed):
            run.process_all()
        check(run)
    killer.left = None
    run.process_all()
    check(run)
    if redrive:
        run.job = job_of_plan(plan, block_size=block_size, killer=killer, healed=True)
        run.next_round()
        killer.left = kills[0] if kills else 3
        with suppress(Killed):
            run.process_all()
        check(run)
        killer.left = None
        run.process_all()
        check(run)

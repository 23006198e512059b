"""What one step does with records: docs/steps.md, docs/aggregators.md, docs/writers.md."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

from tests.properties.model.functions import ACCEPTS, accepts, act, act_on_group, plain, trouble_of
from tests.properties.model.plan import PAYLOAD, RAISES, Job, Step, World
from tests.properties.model.rows import Row, extras, fail
from tests.properties.model.sql import EVERY, RaisedError

Rows = Sequence[tuple[int, Row]]


class Rules:
    """The steps of a job, and what they write.

    Args:
        job: what is drawn.
    """

    def __init__(self, job: Job) -> None:
        self.job, self.world = job, World()
        self.tables: dict[str, dict[Any, tuple[Any, ...]]] = {step.name: {} for step in job.steps}
        self.written: dict[str, dict[int, int]] = {step.name: {} for step in job.steps}
        self.log: dict[str, list[tuple[Any, ...]]] = {step.name: [] for step in job.steps}

    def step(self, step: Step, rows: Rows) -> None:
        """What a step does with records that stand in a block."""
        taken = [(number, row) for number, row in rows if self.takes(step, number, row)]
        if step.kind == "group":
            for start in range(0, len(taken), step.size):
                self.group(step, taken[start : start + step.size])
            return
        each = {"record": self.record, "sql": self.sql, "arrow": self.arrow, "table": self.write, "files": self.done}
        for number, row in taken:
            each[step.kind](step, number, row)

    def done(self, step: Step, number: int, row: Row) -> None:  # as the others
        """All was well."""
        row.outcomes[step.name] = "SUCCEEDED"

    def takes(self, step: Step, number: int, row: Row) -> bool:
        """The policy first, then the expression; one that raises fails its record."""
        row.outcomes[step.name] = "SKIPPED"
        if step.policy != "ALL" and bool(row.failures) is (step.policy == "NO_FAILURES"):
            return False
        if step.accept is None:
            return True
        try:
            if step.accept in EVERY:
                return bool(EVERY[step.accept].value({**row.payload, **extras(row)}))
            return bool(accepts(step.accept, self.seen(step, row), self.keywords(ACCEPTS[step.accept], number, row)))
        except RaisedError as error:
            fail(step, number, row, str(error))
        except Exception as error:  # noqa: BLE001  # as the engine: this is where user code ends
            fail(step, number, row, type(error).__name__)
        return False

    def seen(self, step: Step, row: Row) -> dict[str, Any]:
        """The payload as a function gets it."""
        record = deepcopy(row.payload)
        if step.reads is None:
            return record
        extra = EVERY[step.accept].reads if step.accept in EVERY else ()
        return {name: value for name, value in record.items() if name in (*step.reads, *extra)}

    def keywords(self, asks: Sequence[str], number: int, row: Row) -> dict[str, Any]:
        """What a function of a record asks for."""
        known = {"record_id": number, **deepcopy(extras(row)), "instance": None}
        return {name: known[name] for name in asks}

    def record(self, step: Step, number: int, row: Row) -> None:
        """A call for a record, with its tries."""
        if step.transaction and self.written[step.name].get(number) == row.consumed:
            return self.done(step, number, row)
        for left in range(step.retries, -1, -1):
            keywords = self.keywords(step.asks, number, row)
            before = dict(row.variables)
            record = self.seen(step, row)
            name = record.get("id") if "record_id" not in step.asks else number
            try:
                made = act(step, self.world, self.world.version(step), record, keywords)
            except Exception as error:  # noqa: BLE001  # as the engine: this is where user code ends
                again = step.retry_on == "any" or isinstance(error, RAISES["down"])
                if left and again:
                    continue
                return fail(step, number, row, type(error).__name__)
            if step.transaction:
                return self.transacted(step, number, row, name, made, keywords.get("variables", before))
            return self.returned(step, number, row, made, keywords.get("variables", before))
        raise AssertionError

    def transacted(self, step: Step, number: int, row: Row, name: Any, made: Any, variables: dict[str, Any]) -> None:
        """It returns nothing and leaves the variables as they are, or is rolled back."""
        if made is not None or variables != row.variables:
            return fail(step, number, row, "TypeError")
        self.log[step.name].append((name,))
        self.written[step.name][number] = row.consumed
        row.outcomes[step.name] = "SUCCEEDED"
        return None

    def returned(self, step: Step, number: int, row: Row, made: Any, variables: dict[str, Any] | None) -> None:
        """A patch is applied whole, or fails its record."""
        if variables is not None and "bad" in variables:
            return fail(step, number, row, "VariableTypeError")
        if (kind := refused(made)) is not None:
            return fail(step, number, row, kind)
        row.outcomes[step.name] = "SUCCEEDED"
        row.variables = row.variables if variables is None else variables
        if made is not None:
            row.payload = plain(made if step.output == "replace" else {**row.payload, **made})
        row.payload = {name: value for name, value in row.payload.items() if name not in step.drop}
        return None

    def sql(self, step: Step, number: int, row: Row) -> None:
        """Checks in their order, then the assignments over the record as it came."""
        view = {**row.payload, **extras(row)}
        try:
            for check in step.checks:
                if not EVERY[check].value(view):
                    return fail(step, number, row, "CheckFailed", check)
            made = {column: EVERY[expression].value(view) for column, expression in step.assign}
        except RaisedError as error:
            return fail(step, number, row, str(error))
        return self.returned(step, number, row, made, None)

    def arrow(self, step: Step, number: int, row: Row) -> None:
        """The function raises for a block with bad records: they fail alone."""
        kind = trouble_of(step, self.world, row.payload.get("id"))
        if kind is not None:
            return fail(step, number, row, "CheckFailed" if kind == "check" else RAISES[kind].__name__)
        n = row.payload.get("n")
        made = {patch.key: None if n is None else n * 2 + 1 for patch in step.patches}
        return self.returned(step, number, row, made, None)

    def group(self, step: Step, rows: Rows) -> None:
        """A call that raises fails its group, or is halved until the bad records stand alone."""
        ids = [number for number, _ in rows]
        known = {
            "record_ids": ids,
            "failures": [extras(row)["failures"] for _, row in rows],
            "idempotency_key": f"local~run~job/{step.name}/{_named(ids)}",
        }
        records = [self.seen(step, row) for _, row in rows]
        names = ids if "record_ids" in step.asks else [record.get("id") for record in records]
        keywords = {name: known[name] for name in step.asks if name in known}
        may_halve, kinds = step.isolate and len(rows) > 1, list[str]()
        try:
            made = act_on_group(step, self.world, self.world.version(step), records, keywords)
            if made is not None and len(made) != len(rows):
                made, may_halve, kinds = None, False, ["InvalidPatchError"]  # an error of the code
            elif step.transaction:
                kinds = sorted(filter(None, map(refused, made or [])), reverse=True)  # nothing of it is committed
        except Exception as error:  # noqa: BLE001  # as the engine: this is where user code ends
            kinds = [type(error).__name__]
        if kinds and may_halve:
            self.group(step, rows[: len(rows) // 2])
            return self.group(step, rows[len(rows) // 2 :])
        if kinds:
            for number, row in rows:
                fail(step, number, row, kinds[0])
            return None
        for (number, row), patch in zip(rows, made or [None] * len(rows), strict=True):
            self.returned(step, number, row, patch, None)
        if step.transaction:
            self.log[step.name] += [(name,) for name in names]
        return None

    def settle(self, step: Step, taken: Rows, call: Callable[[], None]) -> None:
        """A streaming call that raises fails all of its records."""
        try:
            call()
        except Exception as error:  # noqa: BLE001  # as the engine: this is where user code ends
            for number, row in taken:
                fail(step, number, row, type(error).__name__)
            return
        for _, row in taken:
            row.outcomes[step.name] = "SUCCEEDED"

    def write(self, step: Step, number: int, row: Row) -> None:
        """A row in a table, exactly once; one that the table refuses fails alone."""
        written, table = self.written[step.name], self.tables[step.name]
        row.outcomes[step.name] = "SUCCEEDED"
        if written.get(number) == row.consumed:
            return None
        if number in written and step.key is None:
            return fail(step, number, row, "AlreadyWritten")
        values = {name: row.payload.get(name) for name in step.columns or PAYLOAD}
        taken = step.key is None and step.unique and values["k"] in {dict(found)["k"] for found in table.values()}
        if values["id"] is None or values["k"] is None or (values["n"] or 0) >= step.bound or taken:
            return fail(step, number, row, "IntegrityError")
        table[values[step.key] if step.key else number] = tuple(values.items())
        written[number] = row.consumed
        return None


def refused(patch: Any) -> str | None:
    """The error of what is no patch, or holds what cannot be kept."""
    if patch is None:
        return None
    if not isinstance(patch, dict) or "_id" in patch:
        return "InvalidPatchError"
    return "FieldTypeError" if any(type(value) is object for value in patch.values()) else None


def _named(ids: list[int]) -> str:
    """First and last id; of ids with gaps a digest of them all, as other groups end alike (docs/aggregators.md)."""
    name = f"{ids[0]}-{ids[-1]}"
    if len(ids) == ids[-1] - ids[0] + 1:
        return name
    return f"{name}.{hashlib.blake2b(repr(ids).encode(), digest_size=4).hexdigest()}"

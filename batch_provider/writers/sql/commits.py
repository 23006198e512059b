"""The two small tables in a target database: who may write, and what is written (DESIGN section 5, Effects).

``_batch_fence`` has the claim that may write each (instance, generation, step, shard), and in a row of ``*`` the
generation that may write the (instance, step). ``_batch_commits`` has the record ids that are written, as ranges,
each with the epoch of the upstream row it was made from. Whoever writes locks its fence row, requires its own claim
in it, writes, and notes the ids: all in one transaction.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from batch_provider.domain.errors import FencedError, OlderGenerationError
from batch_provider.domain.instance import Claim
from batch_provider.domain.layout import Span
from batch_provider.writers.sql.dialect import Dialect
from batch_provider.writers.sql.errors import TransactionRefusedError, is_of_the_record

_TABLES = (
    """CREATE TABLE IF NOT EXISTS _batch_fence (instance VARCHAR(255), generation VARCHAR(64), step VARCHAR(128),
    shard VARCHAR(16), claim VARCHAR(64), PRIMARY KEY (instance, generation, step, shard))""",
    """CREATE TABLE IF NOT EXISTS _batch_commits (instance VARCHAR(255), generation VARCHAR(64), step VARCHAR(128),
    shard VARCHAR(16), first_id BIGINT, last_id BIGINT, consumed BIGINT, claim VARCHAR(64))""",
)
_PLACE = "instance = {m} AND generation = {m} AND step = {m} AND shard = {m}"
_ALL = "*"


@dataclass(frozen=True)
class Place:
    """Where in a job an attempt writes."""

    instance: str
    generation: str
    step: str
    shard: str

    @classmethod
    def of(cls, instance: str, generation: str, claim: Claim) -> Place:
        """The place that a claim is of."""
        return cls(instance, generation, claim.step, claim.shard)

    @property
    def row(self) -> tuple[str, str, str, str]:
        """As it stands in the tables."""
        return self.instance, self.generation, self.step, self.shard


class CommitLog:
    """One attempt's view of the two tables.

    Args:
        connection: DB-API connection to the target, prepared by its dialect.
        dialect: of the database.
        place: where the attempt writes.
        claim: its claim id.
        tables: further tables to create.
    """

    def __init__(self, connection: Any, dialect: Dialect, place: Place, claim: str, tables: Sequence[str] = ()) -> None:
        self._connection, self._dialect, self._place, self._claim = connection, dialect, place, claim
        self._tables = (*_TABLES, *tables)

    @contextmanager
    def transaction(self) -> Iterator[Any]:
        """A cursor whose work is committed at the end, or rolled back.

        Raises:
            TransactionRefusedError: what was written cannot be committed together (SQLite's deferred constraints).
        """
        cursor = self._connection.cursor()
        try:
            if self._dialect.begin:
                cursor.execute(self._dialect.begin)
            yield cursor
            self._commit()
        except BaseException:
            with suppress(Exception):  # a connection that is gone has rolled back; what ended it is to be told
                self._connection.rollback()
            raise
        finally:
            cursor.close()

    def _commit(self) -> None:
        try:
            self._connection.commit()
        except Exception as error:
            if is_of_the_record(error):
                raise TransactionRefusedError(error) from error
            raise

    def take_over(
        self, *, refuse_older: str = "", clear_older: Callable[[Any, Sequence[str]], None] | None = None
    ) -> None:
        """Fence earlier attempts and generations; from now on only this claim may write at its place.

        Args:
            refuse_older: what the target calls itself, if it cannot bear the rows of an older generation beside new
                ones.
            clear_older: called with a cursor and the names of the older generations, by the first attempt of this
                generation only, in the transaction that fences them.

        Raises:
            FencedError: a later attempt or generation writes already.
            OlderGenerationError: an older generation has rows in a target that cannot bear them.
        """
        with self.transaction() as cursor:
            for statement in (*self._dialect.before_ddl, *self._tables):
                cursor.execute(statement)
        with self.transaction() as cursor:
            is_first = self._lock_gate(cursor)
            if refuse_older:
                self._refuse_older(cursor, refuse_older)
            if is_first:
                older = self._fence_older(cursor)
                if clear_older is not None and older:
                    clear_older(cursor, older)
                self._set_claim(cursor, self._gate, self._place.generation)
            self._put_claim(cursor, self._place.row, self._claim)
            self.check(cursor, raising=True)
            self._set_claim(cursor, self._place.row, self._claim)

    def check(self, cursor: Any, *, raising: bool = False) -> None:
        """Lock the fence row of this place, and see that nobody has raised it.

        Raises:
            FencedError: somebody has.
        """
        found = self._locked_claim(cursor, self._place.row)
        if found > self._claim or (found != self._claim and not raising):
            raise FencedError(self._place.step, self._place.shard, self._claim, found)

    def note(self, cursor: Any, ids: Sequence[int], consumed: Sequence[int]) -> None:
        """Note the ids that are written in this transaction."""
        marks = ", ".join([self._dialect.mark] * 8)
        for first, last, epoch in id_ranges(ids, consumed):
            row = (*self._place.row, first, last, epoch, self._claim)
            cursor.execute(f"INSERT INTO _batch_commits VALUES ({marks})", row)

    def merge(self, cursor: Any, span: Span) -> None:
        """Make ranges of the notes that this claim has made of single ids in ``span``."""
        mark = self._dialect.mark
        own = f"{self.where} AND claim = {mark} AND first_id BETWEEN {mark} AND {mark}"
        parameters = (*self._place.row, self._claim, span.first, span.last)
        cursor.execute(f"SELECT first_id, consumed FROM _batch_commits WHERE {own} AND first_id = last_id", parameters)
        found = cursor.fetchall()
        if len(found) > 1:
            cursor.execute(f"DELETE FROM _batch_commits WHERE {own} AND first_id = last_id", parameters)
            self.note(cursor, [row[0] for row in found], [row[1] for row in found])

    def written(self) -> dict[int, int]:
        """Record id → the epoch of the upstream row that its latest commit was made from."""
        found: dict[int, int] = {}
        with self.transaction() as cursor:
            cursor.execute(
                f"SELECT first_id, last_id, consumed FROM _batch_commits WHERE {self.where} ORDER BY claim",
                self._place.row,
            )
            for first, last, consumed in cursor.fetchall():
                found.update(dict.fromkeys(range(first, last + 1), consumed))
        return found

    @property
    def where(self) -> str:
        """The rows of this place, in either table."""
        return _PLACE.format(m=self._dialect.mark)

    # --- generations ------------------------------------------------------------------------------------------

    @property
    def _gate(self) -> tuple[str, str, str, str]:
        return self._place.instance, _ALL, self._place.step, _ALL

    def _lock_gate(self, cursor: Any) -> bool:
        """Take the row lock of (instance, step); whether this is the first attempt of its generation."""
        is_new = self._put_claim(cursor, self._gate, self._place.generation)
        current = self._locked_claim(cursor, self._gate)
        if _number(current) > _number(self._place.generation):
            raise FencedError(self._place.step, self._place.shard, self._claim, f"of generation {current}")
        return is_new or current != self._place.generation

    def _refuse_older(self, cursor: Any, target: str) -> None:
        mark = self._dialect.mark
        cursor.execute(
            "SELECT generation FROM _batch_commits"
            f" WHERE instance = {mark} AND step = {mark} AND generation <> {mark} LIMIT 1",
            (self._place.instance, self._place.step, self._place.generation),
        )
        if found := cursor.fetchone():
            raise OlderGenerationError(target, self._place.instance, self._place.step, found[0])

    def _fence_older(self, cursor: Any) -> list[str]:
        """The other generations of the instance; their attempts at this step write no more.

        An attempt that is writing holds its fence row, so this waits until its transaction has ended.
        """
        mark, place = self._dialect.mark, self._place
        cursor.execute(
            f"UPDATE _batch_fence SET claim = {mark} WHERE instance = {mark} AND step = {mark}"
            f" AND generation NOT IN ({mark}, {mark})",
            (place.generation, place.instance, place.step, place.generation, _ALL),
        )
        cursor.execute(
            "SELECT DISTINCT generation FROM _batch_fence"
            f" WHERE instance = {mark} AND generation NOT IN ({mark}, {mark})",
            (place.instance, place.generation, _ALL),
        )
        return sorted(row[0] for row in cursor.fetchall())

    # --- fence rows -------------------------------------------------------------------------------------------

    def _put_claim(self, cursor: Any, row: tuple[str, ...], claim: str) -> bool:
        marks = ", ".join([self._dialect.mark] * 5)
        cursor.execute(f"INSERT INTO _batch_fence VALUES ({marks}) ON CONFLICT DO NOTHING", (*row, claim))
        return bool(cursor.rowcount == 1)

    def _set_claim(self, cursor: Any, row: tuple[str, ...], claim: str) -> None:
        cursor.execute(f"UPDATE _batch_fence SET claim = {self._dialect.mark} WHERE {self.where}", (claim, *row))

    def _locked_claim(self, cursor: Any, row: tuple[str, ...]) -> str:
        cursor.execute(f"SELECT claim FROM _batch_fence WHERE {self.where}{self._dialect.lock}", row)
        return str(cursor.fetchone()[0])


def _number(generation: str) -> int:
    """The n of ``g<n>-<8 hex>``."""
    match = re.match(r"g(\d+)", generation)
    return int(match[1]) if match else 0


def id_ranges(ids: Sequence[int], consumed: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Runs of consecutive ids with the same upstream row epoch."""
    pairs = sorted(zip(ids, consumed, strict=True))
    start = 0
    for index, (one, two) in enumerate(pairwise(pairs), start=1):
        if two[0] != one[0] + 1 or two[1] != one[1]:
            yield pairs[start][0], pairs[index - 1][0], pairs[start][1]
            start = index
    if pairs:
        yield pairs[start][0], pairs[-1][0], pairs[start][1]

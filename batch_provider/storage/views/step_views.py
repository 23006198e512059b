"""One DuckDB view for each step: every record once, with its whole payload after the step and what became of it.

A step's files hold only what the step changed; a footer names the owner of every other column (docs/layout.md).
The views join the owners on ``_id``, so that nobody has to. A hash join, because a positional one, though three times
as fast over 1,000,000 records, gives wrong rows without a word when a reader changes how DuckDB orders its scans, and
reads everything to find one record.

Files of a step that have the same columns, types and owners make one *part*, which is one relation in DuckDB.
"""

from __future__ import annotations

import secrets
import tempfile
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa

from batch_provider.domain.names import INPUT_PHASE, SIDE_COLUMNS
from batch_provider.domain.outcome import FAILED_BEFORE, Outcome
from batch_provider.engine.columns.block import OUTCOME_BITS
from batch_provider.engine.columns.joining import joint_type
from batch_provider.storage.claims.stored import StoredGeneration
from batch_provider.storage.views import view_sql
from batch_provider.storage.views.relations import Relations
from batch_provider.storage.views.survey import OWN_COLUMNS, Part, StepFiles, survey

if TYPE_CHECKING:
    import duckdb

FIXED_COLUMNS = ("_id", "_kept", "outcome", "failed", "error_type", "error_message")
"""Columns of every view; a payload column of such a name gets a suffix."""

_INPUT_COLUMNS = ("_line", "_raw")
_OUTCOMES = " ".join(f"WHEN {int(member)} THEN '{member.name}'" for member in Outcome)


def open_views(generation: StoredGeneration) -> duckdb.DuckDBPyConnection:
    """A connection with a view for each step and for the input, as they count right now.

    Every file is read once to verify its digest; DuckDB then reads them by itself, and nothing else.

    Raises:
        CorruptCheckpointError: a file does not match its digest.
        SourceError: the input was not copied, and has changed.
    """
    import duckdb

    generation.check_input()
    steps = survey(generation)
    connection = duckdb.connect(":memory:")
    try:
        _Views(connection, steps).create()
    except BaseException:
        connection.close()
        raise
    return connection


class _Views:
    """Creates relations over files in the schema ``files``, and the views over these."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, steps: Sequence[StepFiles]) -> None:
        self._connection, self._steps = connection, steps
        self._relations = Relations(connection)
        self._by_name = {step.name: step for step in steps}
        self._types = view_sql.TypeNames(connection)

    def create(self) -> None:
        """Create everything, then shut the door."""
        spill = f"{tempfile.gettempdir()}/batch-provider-{secrets.token_hex(4)}"
        self._connection.execute(f"SET TimeZone = 'UTC'; SET temp_directory = {view_sql.literal(spill)}")
        self._connection.execute("CREATE SCHEMA files")
        self._create_absent()
        for step in self._steps:
            self._create_parts(step)
        names = view_sql.distinct_names(step.name for step in self._steps)
        for step in self._steps:
            self._connection.execute(f"CREATE VIEW {view_sql.quoted(names[step.name])} AS {self._view(step)}")
        self._relations.restrict()

    def _create_absent(self) -> None:
        self._connection.execute(
            "CREATE TABLE files.absent (step VARCHAR, first_id BIGINT, last_id BIGINT, failed BOOLEAN, unread BOOLEAN)"
        )
        for step in self._steps:
            if step.absent:
                columns = [pa.array(list(values)) for values in zip(*step.absent, strict=True)]
                rows = pa.table([pa.array([step.name] * len(step.absent)), *columns], ["s", "f", "l", "x", "u"])
                self._connection.register("incoming", rows)
                self._connection.execute("INSERT INTO files.absent SELECT * FROM incoming")
                self._connection.unregister("incoming")

    # --- relations over files ---------------------------------------------------------------------------------

    def _create_parts(self, step: StepFiles) -> None:
        """A relation for each part, columns by position; ``v<n>`` is the n-th variant of the step."""
        variants = {variant: f"v{number}" for number, variant in enumerate(step.variants)}
        for number, part in enumerate(step.parts.values()):
            positions = {item.name: f"c{position}" for position, item in enumerate(part.schema)}
            columns = {name: column for name, column in positions.items() if name in OWN_COLUMNS}
            columns |= {variants[variant]: positions[variant[0]] for variant in part.own}
            self._relations.create(f"{step.relation}_{number}", part, columns)
        if step.parts:
            union = " UNION ALL BY NAME ".join(f"FROM {step.relation}_{number}" for number in range(len(step.parts)))
            self._connection.execute(f"CREATE VIEW {step.relation} AS {union}")

    # --- views ------------------------------------------------------------------------------------------------

    def _view(self, step: StepFiles) -> str:
        payload = dict.fromkeys(name for part in step.parts.values() for name in part.owners)
        names = [name for name in payload if name not in SIDE_COLUMNS]
        fixed = [*FIXED_COLUMNS, *(_INPUT_COLUMNS if step.name == INPUT_PHASE else ())]
        shown = view_sql.distinct_names(names, fixed)
        targets = {name: self._target(step, name) for name in names}
        branches = [self._branch(step, number, part, targets, shown) for number, part in enumerate(step.parts.values())]
        return " UNION ALL ".join([*branches, self._absent_branch(step, targets, shown)])

    def _target(self, step: StepFiles, name: str) -> pa.DataType:
        """The one type of a column over all parts; values that cannot have it are kept beside it."""
        kinds: Counter[pa.DataType] = Counter()
        for part in step.parts.values():
            if (owner := part.owners.get(name)) == step.name:
                kinds.update({kind: part.rows for own, kind in part.own if own == name})
            elif owner is not None:
                kinds.update({kind: part.rows for own, kind in self._by_name[owner].variants if own == name})
        return joint_type(kinds)

    def _branch(
        self, step: StepFiles, number: int, part: Part, targets: Mapping[str, pa.DataType], shown: Mapping[str, str]
    ) -> str:
        """The rows of one part, each column from its owner."""
        columns, members = {"_id": "own._id"}, []
        for name, target in targets.items():
            found = list(self._sources(step, part, name))
            values = [sql for column, kind in found if (sql := view_sql.converted(column, kind, target, self._types))]
            empty = f"CAST(NULL AS {self._types.of(target)})"
            columns[shown[name]] = f"coalesce({', '.join(values)})" if len(values) > 1 else (values or [empty])[0]
            members += [view_sql.kept(name, column, kind, target, self._types) for column, kind in found]
        stored = next((column for column, _ in self._sources(step, part, "_kept")), None)
        columns["_kept"] = view_sql.joined_json(stored, filter(None, members))
        columns |= _status_columns(part, is_input=step.name == INPUT_PHASE)
        source = f"{step.relation}_{number} AS own"
        for owner in dict.fromkeys(part.owners[name] for name in (*targets, "_kept") if name in part.owners):
            if owner != step.name:
                alias = self._alias(owner)
                source += f" LEFT JOIN {self._by_name[owner].relation} AS {alias} ON own._id = {alias}._id"
        return view_sql.select(columns, source) + self._only_read(step)

    def _sources(self, step: StepFiles, part: Part, name: str) -> Iterable[tuple[str, pa.DataType]]:
        """Where a column of a part is found: several columns, if the files of its owner disagree on the type."""
        owner = part.owners.get(name)
        if owner is None:
            return
        held = part.own if owner == step.name else None
        for number, (own, kind) in enumerate(self._by_name[owner].variants):
            if own == name and (held is None or (own, kind) in held):
                yield f"{'own' if held is not None else self._alias(owner)}.v{number}", kind

    def _alias(self, owner: str) -> str:
        return f"o{self._steps.index(self._by_name[owner])}"

    def _only_read(self, step: StepFiles) -> str:
        """Leave out rows that are in a file and do not count."""
        if not step.unread:
            return ""
        ids = "SELECT unnest(range(first_id, last_id + 1)) FROM files.absent WHERE unread AND step = "
        return f" WHERE own._id NOT IN ({ids}{view_sql.literal(step.name)})"

    def _absent_branch(self, step: StepFiles, targets: Mapping[str, pa.DataType], shown: Mapping[str, str]) -> str:
        """The records that the step has not come to: no payload."""
        columns = {"_id": "unnest(range(first_id, last_id + 1))"}
        columns |= {shown[name]: f"CAST(NULL AS {self._types.of(kind)})" for name, kind in targets.items()}
        texts = ["_kept", "error_type", "error_message"]
        columns |= dict.fromkeys(texts, "CAST(NULL AS VARCHAR)")
        columns |= {"outcome": "'NOT_RUN'", "failed": "failed"}
        if step.name == INPUT_PHASE:
            columns |= {"_line": "CAST(NULL AS BIGINT)", "_raw": "CAST(NULL AS VARCHAR)"}
        ordered = {name: columns[name] for name in ["_id", *shown.values(), *_tail(step.name == INPUT_PHASE)]}
        return view_sql.select(ordered, f"files.absent WHERE step = {view_sql.literal(step.name)}")


def _tail(is_input: bool) -> list[str]:
    return [*FIXED_COLUMNS[1:], *(_INPUT_COLUMNS if is_input else ())]


def _status_columns(part: Part, *, is_input: bool) -> dict[str, str]:
    """Outcome and error; the input's files say nothing of records that are in order."""
    names = part.schema.names
    status, error = "_status" in names, "_error" in names
    found = {
        "outcome": f"CASE own._status & {OUTCOME_BITS} {_OUTCOMES} END" if status else "'SUCCEEDED'",
        "failed": f"own._status & {OUTCOME_BITS} = {int(Outcome.FAILED)} OR own._status & {FAILED_BEFORE} <> 0"
        if status
        else "false",
        "error_type": "own._error.type" if error else "CAST(NULL AS VARCHAR)",
        "error_message": "own._error.message" if error else "CAST(NULL AS VARCHAR)",
    }
    if is_input:
        found["_line"] = "own._line" if "_line" in names else "CAST(NULL AS BIGINT)"
        found["_raw"] = "own._raw" if "_raw" in names else "CAST(NULL AS VARCHAR)"
    return found

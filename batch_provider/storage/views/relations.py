"""Relations in DuckDB over the rows of files: read by DuckDB itself where it can, else handed over as Arrow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from batch_provider.domain.references import InputPart
from batch_provider.storage.reading.chain import Layer, Tile
from batch_provider.storage.reading.referenced import ReferenceLayer
from batch_provider.storage.views import view_sql
from batch_provider.storage.views.survey import Part

if TYPE_CHECKING:
    import duckdb


class Relations:
    """Creates them, and lets DuckDB read nothing else."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._paths: list[str] = []

    def create(self, name: str, part: Part, columns: Mapping[str, str]) -> None:
        """Create one.

        Args:
            name: of the relation.
            part: whose rows.
            columns: column of the relation → ``c<n>``, the n-th column of the part.
        """
        files = sorted(part.files, key=lambda file: file.span)
        paths = [path for file in files if (path := part.files[file].path(file)) is not None]
        layer = part.files[files[0]]
        if len(paths) == len(files):
            self._create_over_files(name, paths, len(part.schema), columns)
        elif isinstance(layer, ReferenceLayer) and (source := self._sources(part, layer)):
            self._connection.execute(f"CREATE VIEW {name} AS {view_sql.select(columns, source)}")
        elif isinstance(layer, ReferenceLayer):
            self._create_over_stream(name, _Stream(part.schema, [(layer, file) for file in files]), columns)
        else:
            self._create_table(name, _Stream(part.schema, [(part.files[file], file) for file in files]), columns)

    def restrict(self) -> None:
        """From now on only these files can be read, and no variable of the caller's."""
        allowed = ", ".join(map(view_sql.literal, self._paths))
        self._connection.execute(f"SET allowed_paths = [{allowed}]")
        self._connection.execute("SET python_enable_replacements = false; SET enable_external_access = false")

    def _create_over_files(self, name: str, paths: Sequence[str], width: int, columns: Mapping[str, str]) -> None:
        """By position: DuckDB gives other names to columns that differ in case only."""
        self._paths += paths
        files = ", ".join(map(view_sql.literal, paths))
        source = f"read_parquet([{files}]) AS f({_aliases(width)})"
        self._connection.execute(f"CREATE VIEW {name} AS {view_sql.select(columns, source)}")

    def _sources(self, part: Part, layer: ReferenceLayer) -> str | None:
        """Files of an input that was not copied, as they are; None: reading them takes more than DuckDB knows."""
        selects: list[str] = []
        found_in = [layer.file_of(tile) for tile in part.files if isinstance(tile, InputPart)]
        files = {file.reference.path: file for file in found_in}
        for path, file in files.items():
            positions = file.positions()
            if positions is None:
                return None
            found = {name: f"p{position}" for name, position in positions.items()}
            found["_id"] = f"row + {file.reference.parts[0].span.first}"
            columns = {f"c{at}": found.get(name, "NULL") for at, name in enumerate(part.schema.names)}
            aliases = ", ".join(f"p{position}" for position in range(len(file.reference.columns)))
            source = f"read_parquet({view_sql.literal(path)}, file_row_number = true) AS f({aliases}, row)"
            selects.append(view_sql.select(columns, source))
        self._paths += files
        return f"({' UNION ALL '.join(selects)})"

    def _create_over_stream(self, name: str, stream: _Stream, columns: Mapping[str, str]) -> None:
        """An input that was not copied may be large: each query reads it anew."""
        registered = f"rows of {name}"
        self._connection.register(registered, stream)
        source = f"{view_sql.quoted(registered)} AS f({_aliases(stream.width)})"
        self._connection.execute(f"CREATE VIEW {name} AS {view_sql.select(columns, source)}")

    def _create_table(self, name: str, stream: _Stream, columns: Mapping[str, str]) -> None:
        self._connection.register("incoming", stream)
        source = f"incoming AS f({_aliases(stream.width)})"
        self._connection.execute(f"CREATE TABLE {name} AS {view_sql.select(columns, source)}")
        self._connection.unregister("incoming")


def _aliases(width: int) -> str:
    return ", ".join(f"c{position}" for position in range(width))


class _Stream:
    """Rows of files, read when they are asked for, as often as they are asked for."""

    def __init__(self, schema: pa.Schema, files: Sequence[tuple[Layer[Any], Tile]]) -> None:
        self._names, self._files = schema.names, files
        self.width = len(schema)
        self._schema = pa.schema(
            [(f"c{position}", view_sql.plain_type(kind)) for position, kind in enumerate(schema.types)]
        )

    def _batches(self) -> Iterator[pa.RecordBatch]:
        for layer, file in self._files:
            rows = layer.open(file).read(self._names)
            plain = [rows[name].cast(self._schema.field(at).type) for at, name in enumerate(self._names)]
            yield from pa.table(plain, schema=self._schema).to_batches()

    def __arrow_c_stream__(self, requested_schema: object = None) -> object:
        """Arrow's own protocol, which DuckDB asks."""
        return pa.RecordBatchReader.from_batches(self._schema, self._batches()).__arrow_c_stream__(requested_schema)

"""Reading a source to the end, for the tests of sources."""

import pyarrow as pa

from batch_provider.sources import LocalAccess


def read(source, access=None):
    """All records as dicts, and all that is malformed."""
    rows, malformed = [], []
    for piece in source.read(access or LocalAccess()):
        if isinstance(piece, pa.RecordBatch):
            piece.validate(full=True)
            rows += piece.to_pylist()
        else:
            malformed += piece
    return rows, malformed


def batches(source, access=None):
    """The batches alone."""
    return [piece for piece in source.read(access or LocalAccess()) if isinstance(piece, pa.RecordBatch)]


def types(source, access=None):
    """The types of the last batch."""
    return {field.name: str(field.type) for field in batches(source, access)[-1].schema}

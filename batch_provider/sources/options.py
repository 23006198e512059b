"""What the sources' options share: checks, and texts that may be shown."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import Any

from batch_provider.domain.errors import InvalidOptionError

FORMATS = ("csv", "tsv", "ndjson", "json", "xml", "parquet")
COMPRESSIONS = ("none", "gzip", "zstd", "bz2")
EXTRA_COLUMNS = ("keep", "drop", "refuse")

_FORMAT_OF = {f".{name}": name for name in FORMATS} | {".jsonl": "ndjson", ".pq": "parquet"}
_COMPRESSION_OF = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}

_PASSWORD = re.compile(r"(?<=://)([^/@\s:]*):[^/@\s]*@")
_SIGNED = re.compile(r"(https?://[^?\s]*)\?[^\s:]*")


def deduce(name: str) -> tuple[str | None, str | None]:
    """Format and compression by the name of a file; None where the name does not say."""
    suffixes = [suffix.lower() for suffix in PurePosixPath(name.split("::", maxsplit=1)[0]).suffixes]
    compression = _COMPRESSION_OF.get(suffixes[-1]) if suffixes else None
    if compression is not None:
        suffixes.pop()
    return (_FORMAT_OF.get(suffixes[-1]) if suffixes else None), compression


def redact(url: str) -> str:
    """``url`` without password and query string: it may be logged."""
    return _SIGNED.sub(r"\1?…", _PASSWORD.sub(r"\1:***@", url))


def shorten(text: str, longest: int) -> str:
    """``text``, cut to at most ``longest`` characters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"


def is_reference(value: object) -> bool:
    """Whether ``value`` is the output of an Airflow task, known only when the DAG runs."""
    return hasattr(value, "resolve") and hasattr(value, "iter_references")


def is_template(value: str) -> bool:
    """Whether ``value`` still has Jinja in it."""
    return "{{" in value or "{%" in value


def check_urls(urls: object) -> Any:
    """Return ``urls`` as a tuple of strings; what a task will give is left as it is.

    Raises:
        InvalidOptionError: it is empty, or something else than paths and URLs.
    """
    if is_reference(urls):
        return urls
    given = urls if isinstance(urls, Sequence) and not isinstance(urls, str) else (urls,)
    found = tuple(url if is_reference(url) else _url(url) for url in given)
    if not found:
        raise InvalidOptionError("urls", urls, "at least one path, pattern or URL")
    return found


def _url(url: object) -> str:
    text = os.fspath(url) if isinstance(url, os.PathLike) else url
    if not isinstance(text, str) or not text.strip():
        raise InvalidOptionError("urls", url, "paths, patterns such as 'in/*.csv', or URLs")
    return text


def check_character(option: str, value: object) -> str:
    """Return ``value`` if it can separate or quote the fields of a CSV file.

    Raises:
        InvalidOptionError: it is not exactly one ASCII character, or a line end.
    """
    if not isinstance(value, str) or len(value) != 1 or not value.isascii() or value in "\r\n\0":
        raise InvalidOptionError(option, value, "one ASCII character")
    return value


def check_names(option: str, value: object) -> tuple[str, ...]:
    """Return ``value`` as a tuple of column names, each of them once.

    Raises:
        InvalidOptionError: it is something else.
    """
    names = tuple(value) if isinstance(value, (list, tuple)) else ()
    good = all(isinstance(name, str) and name for name in names) and len(set(names)) == len(names)
    if not names or not good:
        raise InvalidOptionError(option, value, "a list of column names, each of them once")
    return names


def check_rename(value: object) -> tuple[tuple[str, str], ...]:
    """Return ``value``, old name → new name, as pairs.

    Raises:
        InvalidOptionError: it is no such mapping, or gives two columns the same name.
    """
    pairs = tuple(value.items()) if isinstance(value, Mapping) else value
    good = isinstance(pairs, tuple) and all(
        isinstance(pair, tuple) and len(pair) == 2 and all(isinstance(name, str) and name for name in pair)
        for pair in pairs
    )
    if not isinstance(pairs, tuple) or not good or len({new for _, new in pairs}) != len(pairs):
        raise InvalidOptionError("rename", value, "a mapping of old to new column names")
    return pairs


def show_schema(schema: Any) -> dict[str, str]:
    """Names and types only, for a repr."""
    return {field.name: str(field.type) for field in schema}

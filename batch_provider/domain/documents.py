"""What the documents of an instance have in common."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any


def known_fields(kind: type, data: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a document that this version knows; a later one of the same layout may have added some."""
    names = {item.name for item in fields(kind)}
    return {name: value for name, value in data.items() if name in names}

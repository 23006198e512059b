"""CSV: lines, fields and types."""

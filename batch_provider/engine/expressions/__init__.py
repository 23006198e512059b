"""SQL expressions over a record: what they may be, and their evaluation in a sandbox."""

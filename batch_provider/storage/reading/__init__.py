"""Reading what counts: the chain of closes, checkpoint files, status columns, referenced input."""

"""Values and rules of a batch job: standard library only, no I/O."""

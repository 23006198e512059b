"""What the engine needs from outside: the store, on-complete's store, writers, sources and the clock."""

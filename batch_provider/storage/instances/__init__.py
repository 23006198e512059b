"""The instances of a store: the catalog, turns, retention, completion and what to redrive."""

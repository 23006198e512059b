"""The first phase: read the source, give each record its id, cut blocks and shards, commit the manifest."""

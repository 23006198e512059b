"""One attempt of one (step, shard): the loop over blocks, its guards, block sizes, and what it commits."""

"""What a step does with the records of a block, for each kind of step."""

"""The last phase: seal, account for every record, dead letters, parts of files, the report."""

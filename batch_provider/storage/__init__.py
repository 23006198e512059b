"""Where it all lies: paths, files, checkpoints, ledger, sources and writers."""

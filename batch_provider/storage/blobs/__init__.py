"""Named bytes: where they are kept, written whole or not at all."""

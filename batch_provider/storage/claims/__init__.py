"""Who may write: generations, rounds, claims and their closes."""

"""The step of an attempt whose forerunners died runs in a child process, which may die: the record fails alone."""

"""The in-memory index of a job, folded from its events.  Pure."""

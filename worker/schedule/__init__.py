"""Schedules, run reports, the record of the last runs, thread priority."""

"""Schedules, the record of the last runs, thread priority."""

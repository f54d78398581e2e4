"""Workflows in one process: the leases that it holds, its calls and callbacks."""

"""Checks of hosts, origins, tokens, and the size and shape of bodies."""

"""The `milepost` command: one Click group whose commands import their own world."""

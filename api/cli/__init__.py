"""The `milepost` command: one Click group whose verbs import their own world."""

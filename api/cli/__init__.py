"""The `milepost` command: a Click group that imports each command on use."""

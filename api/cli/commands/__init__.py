"""The commands of `milepost`, one module each."""

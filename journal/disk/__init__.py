"""The seam to the operating system: files, locks, owners, whole-file replacement."""

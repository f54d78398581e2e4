"""The interface to the operating system: files, locks, owners, atomic replacement."""

"""Import of a folder with one JSON file per checkpoint."""

"""The JSON form of answers, for HTTP and for ``--json``."""

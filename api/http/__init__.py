"""The HTTP API: a FastAPI application over one store."""

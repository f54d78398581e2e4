"""The pydantic models of requests and answers."""

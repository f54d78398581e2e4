"""Tests of `milepost.langgraph`; they need LangGraph, as the extra brings it."""

import pytest

pytest.importorskip("langgraph.graph", reason="needs milepost[langgraph]")
pytest.importorskip(
    "langgraph.checkpoint.sqlite", reason="needs SqliteSaver to compare"
)
pytest.importorskip("langgraph.checkpoint.conformance", reason="needs the suite")

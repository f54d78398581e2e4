"""`make bench-langgraph`: MilepostSaver beside LangGraph's own savers."""

"""How a completion is made; `agentless/__init__.py` draws the way of a call."""

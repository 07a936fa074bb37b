"""The doors that scripts and the Agentless pipeline import."""

from pkgutil import extend_path

# The pipeline has an agentless/util of its own, without __init__.py: its other modules stay visible.
__path__ = extend_path(__path__, __name__)

"""The LLM layer of Agentless: `config.toml` to completions, in four ways, over litellm.

The way of one call:

    codegen("...", num_samples=10)          llm/codegen.py     the four methods, thin
      -> bridge                             llm/bridge.py      onto the one engine loop
      -> sampling                           llm/sampling.py    one prompt -> exactly n
      -> providers.request                  llm/providers.py   settings -> what goes on the wire
      -> attempts                           llm/attempts.py    retries, deadlines, stream contract
      -> transport                          llm/transport.py   by the direct door, or litellm's
      -> trajectory                         llm/trajectory.py  reply -> plain dicts

Imports point one way: `util` -> `llm` -> `config`, `errors`.
"""

from pkgutil import extend_path
from typing import TYPE_CHECKING, Any

# The pipeline's checkout has no __init__.py: with this, its agentless.fl, agentless.repair, ...
# stay importable beside this package.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
__all__ = ["Config", "ModelFactory", "__version__", "load_config"]

if TYPE_CHECKING:
    from agentless.config import Config as Config
    from agentless.config import load_config as load_config
    from agentless.util.model_factory import ModelFactory as ModelFactory


def __getattr__(name: str) -> Any:
    """Import the public names on first use: `import agentless` alone stays fast."""
    if name in {"load_config", "Config"}:
        from agentless import config

        return getattr(config, name)
    if name == "ModelFactory":
        from agentless.util.model_factory import ModelFactory

        return ModelFactory
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

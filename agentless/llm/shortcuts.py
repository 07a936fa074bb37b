"""The one switch for reading and writing the wire ourselves, where litellm takes a longer way."""

import os

taken = os.environ.get("AGENTLESS_SHORTCUTS", "1") != "0"
"""False: litellm builds every request and reads every reply. The same comes out, later."""

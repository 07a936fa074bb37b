"""The one switch for reading and writing the wire ourselves, where litellm takes a longer way."""

import os

taken = os.environ.get("AGENTLESS_SHORTCUTS", "1") != "0"
"""False: litellm's own way, everywhere.

The same comes out, later, but for what litellm's wrapper does to streams: each brings one sample, and the
usage of one that broke may be made up.
"""

"""Run the server by itself: `python -m agentless.loopback --port 8080`, until it is interrupted."""

import argparse
import threading
from dataclasses import replace

from agentless.loopback.journal import Entry
from agentless.loopback.replies import Reply, default_reply
from agentless.loopback.server import Loopback


def main() -> None:
    """Print the URLs and serve."""
    parser = argparse.ArgumentParser(prog="python -m agentless.loopback", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="0 (the default): any free one")
    parser.add_argument("--text", help="the reply to everything (default: made from the prompt)")
    parser.add_argument("--chunks", type=int, help="a reply of so many streamed pieces")
    parser.add_argument("--delay", type=float, default=0.0, help="seconds before a reply")
    parser.add_argument("--chunk-delay", type=float, default=0.0, help="seconds between streamed pieces")
    options = parser.parse_args()
    pauses = {"delay": options.delay, "chunk_delay": options.chunk_delay}

    def default(entry: Entry) -> Reply:
        if options.chunks is not None:
            return Reply(chunks=[f"word{i} " for i in range(options.chunks)], **pauses)
        if options.text is not None:
            return Reply(options.text, **pauses)
        return replace(default_reply(entry.prompt, 0, None), **pauses)

    # A benchmark sends more requests than anybody wants to read about.
    with Loopback(options.port, default=default, journal_size=1000) as server:
        print(server.openai_url, server.anthropic_url, server.gemini_url, flush=True)  # noqa: T201  # what it is run for
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print()  # noqa: T201


if __name__ == "__main__":
    main()

"""A provider of completions in this process: a real HTTP/1.1 server on 127.0.0.1.

    from agentless.loopback import Loopback, Reply, faults

    with Loopback() as server:
        server.script(faults.Status(429, headers={"retry-after": "2"}), "the reply")
        ...                                     # a client that is given server.openai_url
        assert len(server.journal) == 2

It speaks OpenAI's chat completions, Anthropic's messages and Gemini's `generateContent`, whole and streamed,
with tools, native n, reasoning, usage and prompt-cache accounting; it refuses what the real services refuse;
it keeps a journal of every request; and it plays faults down to the TCP connection.

How it is built: requests are read by h11, which does no I/O and so leaves the raw connection to us; server
libraries do not let go of it, and half a header, a body shorter than announced or a reset in the middle of
an event cannot be sent through them. Replies are planned as plain data (bytes, pauses, an end) by pure
functions, and carried out by `connections` on asyncio transports, in a daemon thread with a loop of its own.

    connections     bytes in (h11), plans carried out           the only module that waits
      -> server     Loopback: routes, script, journal, bill
        -> script   which reply or fault comes next
        -> openai_format, anthropic_format, gemini_format       pure: refusals (with the modules that are
                                                                named like them), bodies, SSE events
        -> faults   changes to the plan of a reply              pure
          -> draft  a reply's plan
            -> replies, prompt_cache, journal, wire             values

Needs the standard library and h11 only.
"""

from agentless.loopback import faults
from agentless.loopback.journal import Entry
from agentless.loopback.replies import Ending, Reply, ToolCall, Usage
from agentless.loopback.server import Loopback, shared

__all__ = ["Ending", "Entry", "Loopback", "Reply", "ToolCall", "Usage", "faults", "shared"]

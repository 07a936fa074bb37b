"""The peers among the contenders: libraries like ours, each under its own environment's interpreter.

    .venv/peers/NAME/bin/python benchmarks/peers.py NAME < commands

`python benchmarks/bench.py --peers` makes the environments. They have no `agentless`, and nothing here
imports it. Like the other contenders the peers are left at their defaults, except that they send each
request once and measure nothing but themselves: no retries, no cache, no telemetry.
"""

import functools
import importlib
import os
import sys
import traceback
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from benchmarks import contenders
else:
    import contenders  # a script's own folder is where it looks first

QUIET = {
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # else the price list is downloaded, by dspy too
    "LANGSMITH_TRACING": "false",
    "LANGCHAIN_TRACING_V2": "false",  # the older name of the same
    "OTEL_SDK_DISABLED": "true",  # pydantic-ai has OpenTelemetry's interface, and no exporter
    "PYDANTIC_DISABLE_PLUGINS": "__all__",
    "DSPY_CACHEDIR": str(Path(sys.prefix) / "cache"),  # else in the user's home
}
SETTINGS = {"max_tokens": 1024, "temperature": 0.0}
PROMPT = contenders.MESSAGES[0]["content"]


class LangchainLitellm:
    """ChatLiteLLM."""

    def __init__(self) -> None:
        litellm: Any = importlib.import_module("litellm")
        litellm.suppress_debug_info = True
        chat = importlib.import_module("langchain_litellm").ChatLiteLLM

        @functools.cache
        def model(provider: str, url: str) -> Any:
            return chat(
                model=f"{provider}/{contenders.NAMES[provider]}",
                api_base=f"{url}/v1",
                api_key="x",
                max_retries=0,
                # The one above is langchain's own; without this the SDK below litellm tries three times.
                model_kwargs={"max_retries": 0},
                **SETTINGS,
            )

        self._model = model

    def call(self, provider: str, url: str) -> None:
        """One whole reply."""
        self._model(provider, url).invoke(PROMPT)

    async def acall(self, provider: str, url: str) -> None:
        """One whole reply."""
        await self._model(provider, url).ainvoke(PROMPT)

    def stream(self, provider: str, url: str) -> Iterator[Any]:
        """Its chunks."""
        yield from self._model(provider, url).stream(PROMPT)

    async def astream(self, provider: str, url: str) -> AsyncIterator[Any]:
        """Its chunks."""
        async for chunk in self._model(provider, url).astream(PROMPT):
            yield chunk


class PydanticAI:
    """Its direct requests, which leave its agents out."""

    def __init__(self) -> None:
        self._direct = importlib.import_module("pydantic_ai.direct")
        request = importlib.import_module("pydantic_ai").ModelRequest
        chat = importlib.import_module("pydantic_ai.models.openai").OpenAIChatModel
        service = importlib.import_module("pydantic_ai.providers.openai").OpenAIProvider

        # Its only client is an asynchronous one, and blocking calls have an event loop of their own: a pool
        # of connections cannot be in two loops.
        @functools.cache
        def arguments(provider: str, url: str, blocking: bool) -> dict[str, Any]:  # noqa: ARG001  # a key
            server = service(base_url=f"{url}/v1", api_key="x")
            server.client.max_retries = 0
            model = chat(contenders.NAMES[provider], provider=server)
            messages = [request.user_text_prompt(PROMPT)]
            return {"model": model, "messages": messages, "model_settings": SETTINGS}

        self._arguments = arguments

    def call(self, provider: str, url: str) -> None:
        """One whole reply."""
        self._direct.model_request_sync(**self._arguments(provider, url, blocking=True))

    async def acall(self, provider: str, url: str) -> None:
        """One whole reply."""
        await self._direct.model_request(**self._arguments(provider, url, blocking=False))

    def stream(self, provider: str, url: str) -> Iterator[Any]:
        """Its events."""
        with self._direct.model_request_stream_sync(
            **self._arguments(provider, url, blocking=True)
        ) as events:
            yield from events

    async def astream(self, provider: str, url: str) -> AsyncIterator[Any]:
        """Its events."""
        arguments = self._arguments(provider, url, blocking=False)
        async with self._direct.model_request_stream(**arguments) as events:
            async for event in events:
                yield event


class AnyLLM:
    """Its class, as it advises for more than single requests: its functions make a client for every call."""

    def __init__(self) -> None:
        kind = importlib.import_module("any_llm").AnyLLM

        @functools.cache
        def made(provider: str, url: str, awaited: bool = False) -> Any:  # noqa: ARG001  # one for each loop
            return kind.create(provider, api_key="x", api_base=f"{url}/v1", max_retries=0)

        self._made = made

    def _asked(self, provider: str) -> dict[str, Any]:
        return {"model": contenders.NAMES[provider], "messages": contenders.MESSAGES, **SETTINGS}

    def call(self, provider: str, url: str) -> None:
        """One whole reply."""
        self._made(provider, url).completion(**self._asked(provider))

    async def acall(self, provider: str, url: str) -> None:
        """One whole reply."""
        await self._made(provider, url, awaited=True).acompletion(**self._asked(provider))

    def stream(self, provider: str, url: str) -> Iterator[Any]:
        """Its chunks."""
        yield from self._made(provider, url).completion(**self._asked(provider), stream=True)

    async def astream(self, provider: str, url: str) -> AsyncIterator[Any]:
        """Its chunks."""
        async for chunk in await self._made(provider, url, awaited=True).acompletion(
            **self._asked(provider), stream=True
        ):
            yield chunk


class DSPy:
    """dspy.LM, which sends OpenAI's format by an engine of its own and no more by litellm."""

    def __init__(self) -> None:
        lm = importlib.import_module("dspy").LM

        @functools.cache
        def model(provider: str, url: str) -> Any:
            name = f"{provider}/{contenders.NAMES[provider]}"
            return lm(name, api_base=f"{url}/v1", api_key="x", cache=False, num_retries=0, **SETTINGS)

        self._model = model

    def call(self, provider: str, url: str) -> None:
        """One whole reply."""
        self._model(provider, url)(PROMPT)

    async def acall(self, provider: str, url: str) -> None:
        """One whole reply."""
        await self._model(provider, url).acall(PROMPT)

    def stream(self, provider: str, url: str) -> Iterator[Any]:
        """It streams the fields of a program's answer, not a model's reply."""
        raise NotImplementedError

    def astream(self, provider: str, url: str) -> AsyncIterator[Any]:
        """Neither."""
        raise NotImplementedError


PEERS: dict[str, Callable[[], contenders.Contender]] = {
    "langchain-litellm": LangchainLitellm,
    "pydantic-ai": PydanticAI,
    "any-llm": AnyLLM,
    "dspy": DSPy,
}


def main() -> None:
    """Answer commands until there are no more, or one fails: its error's one line is the last on stderr."""
    os.environ.update(QUIET)
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer
    try:
        contenders.serve(PEERS[sys.argv[1]](), answers)
    except Exception as error:  # noqa: BLE001  # whatever a library raises
        traceback.print_exc()
        sys.exit(f"ERROR: {type(error).__name__}: {' '.join(str(error).split())}")


if __name__ == "__main__":
    main()

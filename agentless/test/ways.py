"""The four ways to call, behind one interface, and the models that tests call."""

import asyncio
from dataclasses import dataclass
from typing import Any

from agentless.llm.codegen import CodegenModel
from agentless.llm.trajectory import Chunk, Trajectory

KEY = "sk-canary-0123456789abcdef"

PROVIDERS = ("openai", "anthropic", "deepseek", "generic")
"""The three with behaviour of their own, and any other server that speaks OpenAI's format."""

MODELS = {
    "openai": {"name": "gpt-4o", "provider": "openai"},
    "anthropic": {"name": "claude-3-5-sonnet-20241022", "provider": "anthropic"},
    "deepseek": {"name": "deepseek-chat", "provider": "deepseek"},
    "generic": {"name": "local-model", "provider": "hosted_vllm"},
    "gemini": {"name": "gemini-2.5-flash", "provider": "gemini"},
}

QUICK = {"retry_min_wait": 0.01, "retry_max_wait": 0.02, "timeout": 5}
"""Retry waits that a test can afford, by the config and not by a patched clock."""


@dataclass(frozen=True)
class Way:
    """One of the four ways to call, with one interface: trajectories out, or whatever is raised."""

    name: str

    @property
    def streams(self) -> bool:
        """Claims that pieces reach the caller as they come."""
        return "stream" in self.name

    def call(self, model: CodegenModel, message: Any = "hi", **arguments: Any) -> list[Trajectory]:
        """Call by this way; a stream's chunks are folded to the fields that chunks have."""
        if self.name == "codegen":
            return model.codegen(message, **arguments)
        if self.name == "codegen_async":
            return asyncio.run(model.codegen_async(message, **arguments))
        return fold_chunks(self.chunks(model, message, **arguments))

    def chunks(self, model: CodegenModel, message: Any = "hi", **arguments: Any) -> list[Chunk]:
        """The chunks of a streaming way."""
        if self.name == "codegen_stream":
            return list(model.codegen_stream(message, **arguments))

        async def collect() -> list[Chunk]:
            return [chunk async for chunk in model.codegen_stream_async(message, **arguments)]

        return asyncio.run(collect())

    def __str__(self) -> str:
        return self.name


WAYS = tuple(map(Way, ("codegen", "codegen_async", "codegen_stream", "codegen_stream_async")))


def fold_chunks(chunks: list[Chunk]) -> list[Trajectory]:
    """Chunks as the trajectories they make up, with what chunks do not say left empty."""
    samples: dict[int, Trajectory] = {}
    for chunk in chunks:
        sample = samples.setdefault(
            chunk["index"],
            Trajectory(
                response="",
                usage=chunk["usage"],
                finish_reason="",
                tool_calls=[],
                model="",
                request_id=None,
                reasoning=None,
                attempts=0,
                latency=0.0,
                cached=False,
            ),
        )
        sample["response"] += chunk["response"]
        sample["usage"] = chunk["usage"]
        sample["tool_calls"] = chunk["tool_calls"]
        sample["finish_reason"] = chunk["finish_reason"] or ""
    return [samples[index] for index in sorted(samples)]

"""The specification, group by group, over real HTTP: `pytest agentless/test/test_litellm_integration.py`.

Its groups are the classes: completion (sync and async), streaming, error handling, model-specific features,
configuration validation. Every test talks to the embedded provider; nothing above the socket is replaced.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from agentless import errors
from agentless.config import ConfigError, load_config, read_config
from agentless.errors import CredentialError, StreamInterruptedError, UnknownModelError
from agentless.llm.codegen import AnthropicModel, CodegenModel, DeepSeekModel, OpenAIModel
from agentless.loopback import Loopback, Reply, ToolCall, faults
from agentless.test.ways import KEY, Way
from agentless.util.model_factory import ModelFactory

pytestmark = pytest.mark.litellm

MakeModel = Callable[..., CodegenModel]

TOOL = {
    "type": "function",
    "function": {
        "name": "str_replace_editor",
        "description": "Custom editing tool for editing files",
        "parameters": {
            "type": "object",
            "properties": {
                "path": {"description": "File path", "type": "string"},
                "old_str": {"description": "String to replace", "type": "string"},
                "new_str": {"description": "New string", "type": "string"},
            },
            "required": ["path", "old_str"],
        },
    },
}


class TestCompletion:
    """Sync and async completion."""

    def test_all_ways_give_the_same_reply(
        self, server: Loopback, make_model: MakeModel, way: Way, provider: str
    ) -> None:
        """Each way to call, on each provider, sends one request and gives its text, usage and end."""
        server.script("one two three")
        [reply] = way.call(make_model(provider), "Hello, world!")
        [entry] = server.journal
        assert reply["response"] == "one two three"
        assert reply["finish_reason"] == "stop"
        assert entry.usage is not None
        assert reply["usage"]["prompt_tokens"] == entry.usage.prompt_tokens
        assert reply["usage"]["completion_tokens"] == entry.usage.completion_tokens
        assert entry.prompt == "Hello, world!"
        assert entry.stream == way.streams

    def test_trajectory_is_json(self, server: Loopback, make_model: MakeModel, provider: str) -> None:
        """A trajectory is plain JSON and the caller's own."""
        model = make_model(provider)
        [first] = model.codegen("hi")
        assert json.loads(json.dumps(first)) == first
        first["usage"]["prompt_tokens"] = -1
        [second] = model.codegen("hi")
        assert second["usage"]["prompt_tokens"] > 0
        assert second["attempts"] == 1
        assert second["latency"] > 0
        assert second["request_id"] == server.journal[1].headers.get("x-request-id", second["request_id"])

    def test_conversation(self, server: Loopback, make_model: MakeModel, way: Way) -> None:
        """A list of chat messages goes out as it is."""
        messages = [
            {"role": "user", "content": "one"},
            {"role": "assistant", "content": "two"},
            {"role": "user", "content": "three"},
        ]
        way.call(make_model(), messages)
        assert server.journal[0].body["messages"] == messages

    def test_samples(self, server: Loopback, make_model: MakeModel, way: Way, provider: str) -> None:
        """`num_samples` brings exactly so many samples, each with its own text."""
        server.script("a", "b", "c")
        replies = way.call(make_model(provider), num_samples=3, temperature=0.8)
        assert sorted(reply["response"] for reply in replies) == ["a", "b", "c"]

    def test_batch_size_is_the_default_number(self, server: Loopback, make_model: MakeModel) -> None:
        """`batch_size` is how many samples come, in one request where the service can."""
        assert len(make_model(batch_size=3, temperature=0.8).codegen("hi")) == 3
        assert [entry.body.get("n") for entry in server.journal] == [3]

    def test_async_calls_overlap(self, server: Loopback, make_model: MakeModel) -> None:
        """Calls that are awaited together are under way together."""
        model = make_model()

        async def both() -> None:
            server.default = Reply("x", delay=0.3)
            await asyncio.gather(model.codegen_async("a"), model.codegen_async("b"))

        asyncio.run(both())
        first, second = server.journal
        assert first.ended is not None
        assert second.arrived < first.ended

    @pytest.mark.parametrize("message", ["", "  ", [], [{"role": "nobody", "content": "x"}], None, 3])
    def test_wrong_message(self, server: Loopback, make_model: MakeModel, way: Way, message: object) -> None:
        """What is no message is refused before any request."""
        with pytest.raises((TypeError, ValueError)):
            way.call(make_model(), message)
        assert server.journal == []

    @pytest.mark.parametrize("n", [0, -1, 1.5, "2", True])
    def test_wrong_number(self, server: Loopback, make_model: MakeModel, way: Way, n: object) -> None:
        """A number of samples that cannot be had is refused before any request."""
        with pytest.raises((TypeError, ValueError), match="num_samples"):
            way.call(make_model(), num_samples=n, temperature=0.8)
        assert server.journal == []


@pytest.fixture(params=["codegen_stream", "codegen_stream_async"])
def stream(request: pytest.FixtureRequest) -> Way:
    """The two ways that stream."""
    return Way(request.param)


class TestStreaming:
    """Streaming responses."""

    def test_chunks_join_to_the_reply(
        self, server: Loopback, make_model: MakeModel, stream: Way, provider: str
    ) -> None:
        """Chunks are the pieces that the server sends, and join to the whole reply."""
        pieces = ["def ", "f(", "x):\n", "    return x", " # é✓"]
        server.script(Reply(chunks=pieces))
        chunks = stream.chunks(make_model(provider))
        assert "".join(chunk["response"] for chunk in chunks) == "".join(pieces)
        assert [chunk["response"] for chunk in chunks if chunk["response"]] == pieces

    def test_last_chunk_has_the_usage(
        self, server: Loopback, make_model: MakeModel, stream: Way, provider: str
    ) -> None:
        """The last chunk alone has a finish reason and the usage that the service charged."""
        *others, last = stream.chunks(make_model(provider))
        assert last["finish_reason"] == "stop"
        assert last["usage"]["completion_tokens"] == server.bill["completion_tokens"] > 0
        assert {chunk["finish_reason"] for chunk in others} == {None}
        assert {chunk["usage"]["completion_tokens"] for chunk in others} == {0}

    def test_chunks_arrive_as_they_are_sent(
        self, server: Loopback, make_model: MakeModel, provider: str
    ) -> None:
        """The first chunk is in the caller's hands while the server is still sending."""
        server.default = Reply(chunks=["a"] * 10, chunk_delay=0.05)
        stream = make_model(provider).codegen_stream("hi")
        assert next(stream)["response"] == "a"
        assert server.journal[0].ended is None
        assert "".join(chunk["response"] for chunk in stream) == "a" * 9
        assert server.journal[0].ended is not None

    def test_samples_interleave(self, make_model: MakeModel, stream: Way, provider: str) -> None:
        """Each chunk says whose it is, and each sample ends once."""
        chunks = stream.chunks(make_model(provider), num_samples=3, temperature=0.8)
        ends = [chunk["index"] for chunk in chunks if chunk["finish_reason"] is not None]
        assert sorted(ends) == [0, 1, 2]

    def test_cut_stream_is_an_error(
        self, server: Loopback, make_model: MakeModel, stream: Way, provider: str
    ) -> None:
        """A stream that breaks off is never reported as finished; the error has the text so far."""
        server.script(faults.TruncatedStream(reply=Reply("one two three"), after_chunks=2))
        with pytest.raises(StreamInterruptedError) as caught:
            stream.call(make_model(provider))
        assert caught.value.text.split() == ["one", "two"]
        assert len(server.journal) == 1

    def test_leaving_early_stops_the_request(
        self, server: Loopback, make_model: MakeModel, provider: str
    ) -> None:
        """A stream that is closed after its first chunk is closed at the server too."""
        server.default = Reply(chunks=["a"] * 100, chunk_delay=0.05)
        with make_model(provider).codegen_stream("hi") as chunks:
            next(chunks)
        server.wait_for(lambda journal: journal[0].client_left is not None, 2)

    def test_stream_setting_streams_underneath(self, server: Loopback, make_model: MakeModel) -> None:
        """With `stream = true`, `codegen` streams and returns the whole."""
        server.script("one two three")
        [reply] = make_model(stream=True).codegen("hi")
        assert reply["response"] == "one two three"
        assert server.journal[0].stream


class TestErrorHandling:
    """Errors by their names, and retries with exponential backoff."""

    @pytest.mark.parametrize(
        "name, fault, requests",
        [
            ("BadRequestError", faults.Status(400, "max_tokens is too large"), 1),
            ("RateLimitError", faults.Status(429), 3),
            ("ServiceUnavailableError", faults.Status(503), 3),
            ("AuthenticationError", faults.InvalidKey(), 1),
        ],
    )
    def test_fault_by_its_name(
        self,
        server: Loopback,
        make_model: MakeModel,
        way: Way,
        provider: str,
        name: str,
        fault: faults.Fault,
        requests: int,
    ) -> None:
        """Each fault raises the error that the specification names, after exactly the attempts allowed."""
        server.default = fault
        with pytest.raises(getattr(errors, name)) as caught:
            way.call(make_model(provider, num_retries=2))
        assert len(server.journal) == requests
        assert KEY not in str(caught.value)
        assert any(f"{requests} attempt" in note for note in caught.value.__notes__)

    @pytest.mark.parametrize("provider", ["openai", "anthropic"])
    def test_invalid_format(self, server: Loopback, make_model: MakeModel, way: Way, provider: str) -> None:
        """A request that the service cannot read is an InvalidRequestError, at once."""
        with pytest.raises(errors.InvalidRequestError):
            way.call(make_model(provider, extra_body={"no_such_field": 1}))
        assert [entry.status for entry in server.journal] == [400]

    def test_invalid_request_is_bad_request(self) -> None:
        """InvalidRequestError, which litellm never raises, is another name of BadRequestError."""
        assert errors.InvalidRequestError is errors.BadRequestError

    def test_retry_until_it_works(
        self, server: Loopback, make_model: MakeModel, way: Way, provider: str
    ) -> None:
        """What passes is survived: a rate limit, then an overload, then the reply."""
        server.script(faults.Status(429), faults.Status(503), "at last")
        [reply] = way.call(make_model(provider))
        assert reply["response"] == "at last"
        assert [entry.status for entry in server.journal] == [429, 503, 200]

    def test_backoff_is_exponential(self, server: Loopback, make_model: MakeModel, way: Way) -> None:
        """The waits start at the multiplier, double, and stay within the two bounds."""
        server.default = faults.Status(503)
        waits = {"retry_min_wait": 0.05, "retry_max_wait": 0.3, "retry_multiplier": 0.1}
        with pytest.raises(errors.ServiceUnavailableError):
            way.call(make_model(num_retries=3, **waits))
        arrivals = [entry.arrived for entry in server.journal]
        least = [0.1, 0.2, 0.3]
        assert len(arrivals) == 4
        for (before, after), wait in zip(pairwise(arrivals), least, strict=True):
            assert after - before >= wait - 0.01

    def test_no_retries(self, server: Loopback, make_model: MakeModel, way: Way, provider: str) -> None:
        """`num_retries = 0` is one request, whatever litellm and its clients would do."""
        server.default = faults.Status(500)
        with pytest.raises(errors.InternalServerError):
            way.call(make_model(provider, num_retries=0))
        assert len(server.journal) == 1

    def test_timeout(self, server: Loopback, make_model: MakeModel, way: Way, provider: str) -> None:
        """A service that never answers is left after `timeout`, `num_retries` + 1 times."""
        model = make_model(provider, timeout=0.5, num_retries=1)
        way.call(make_model(provider))  # what litellm loads at its first call is not to be timed
        server.reset()
        server.default = faults.Stall()
        with pytest.raises(TimeoutError):
            way.call(model)
        assert len(server.journal) == 2

    def test_some_samples_fail(self, server: Loopback, make_model: MakeModel, way: Way) -> None:
        """When one sample of three fails, the error has the other two."""
        server.script("a", faults.Status(400), "c")
        with pytest.raises(errors.SamplesIncompleteError) as caught:
            way.call(make_model(), num_samples=3, temperature=0.8)
        assert len(caught.value.trajectories) == 2
        assert [type(failure) for failure in caught.value.failures.values()] == [errors.BadRequestError]


class TestModelFeatures:
    """What some models can do and others cannot."""

    @pytest.mark.parametrize(
        "provider, kind",
        [
            ("openai", OpenAIModel),
            ("anthropic", AnthropicModel),
            ("deepseek", DeepSeekModel),
            ("generic", CodegenModel),
        ],
    )
    def test_wrappers(self, make_model: MakeModel, provider: str, kind: type[CodegenModel]) -> None:
        """Each provider with behaviour of its own has a class of its own."""
        assert type(make_model(provider)) is kind

    @pytest.mark.parametrize(
        "name",
        [
            "claude-3-5-sonnet-20241022",
            "claude-3-5-sonnet-20240620",
            "claude-3-5-haiku-20241022",
            "claude-3-haiku-20240307",
            "claude-3-opus-20240229",
        ],
    )
    def test_prompt_caching(self, server: Loopback, make_model: MakeModel, way: Way, name: str) -> None:
        """The models that the specification lists write the cache and then read it."""
        model = make_model("anthropic", name=name, prompt_cache=True)
        prompt = "a long prefix " * 1000
        [first], [second] = way.call(model, prompt), way.call(model, prompt)
        assert first["usage"]["cache_creation_token"] > 0
        assert first["usage"]["cache_read_input_tokens"] == 0
        assert second["usage"]["cache_read_input_tokens"] == first["usage"]["cache_creation_token"]
        assert b"cache_control" in server.journal[0].raw

    def test_prompt_caching_elsewhere(
        self, server: Loopback, make_model: MakeModel, caplog: pytest.LogCaptureFixture
    ) -> None:
        """A model that is not listed gets no marks, and a warning says so once."""
        model = make_model("anthropic", name="claude-3-sonnet-20240229", prompt_cache=True)
        model.codegen("hi")
        model.codegen("hi")
        assert b"cache_control" not in server.journal[0].raw
        assert [record.levelno for record in caplog.records] == [logging.WARNING]
        assert "prompt_cache" in caplog.text

    @pytest.mark.parametrize(
        "provider, name",
        [
            ("anthropic", "claude-3-sonnet-20240229"),
            ("anthropic", "claude-3-5-sonnet-20241022"),
            ("openai", "gpt-4"),
            ("openai", "gpt-4-turbo"),
            ("openai", "gpt-4o-mini"),
            ("openai", "o1"),
            ("openai", "o3-mini"),
        ],
    )
    def test_function_calling(
        self, server: Loopback, make_model: MakeModel, way: Way, provider: str, name: str
    ) -> None:
        """The config's tools go out, and a call comes back with parsed arguments."""
        arguments = {"path": "a.py", "old_str": "x"}
        server.script(Reply(tool_calls=[ToolCall("str_replace_editor", arguments)]))
        [reply] = way.call(make_model(provider, name=name, tools=[TOOL]))
        assert reply["finish_reason"] == "tool_calls"
        assert [(call["name"], call["arguments"]) for call in reply["tool_calls"]] == [
            ("str_replace_editor", arguments)
        ]
        [sent] = server.journal[0].body["tools"]
        schema = sent["input_schema"] if provider == "anthropic" else sent["function"]["parameters"]
        assert schema["required"] == ["path", "old_str"]

    @pytest.mark.parametrize("name", ["o1-mini", "o1-preview"])
    def test_function_calling_elsewhere(self, server: Loopback, make_model: MakeModel, name: str) -> None:
        """A model without tools is called without them, or with `drop_params = false` not created."""
        model = make_model(name=name, tools=[TOOL])
        model.codegen("hi")
        assert "tools" not in server.journal[0].body
        assert [dropped.option for dropped in model.dropped_options] == ["tools"]
        with pytest.raises(errors.UnsupportedFeatureError, match="tools"):
            make_model(name=name, tools=[TOOL], drop_params=False)

    @pytest.mark.parametrize("name", ["o1", "o3-mini"])
    @pytest.mark.parametrize("effort, word", [(0.1, "low"), (0.5, "medium"), (0.9, "high"), ("low", "low")])
    def test_reasoning_effort(
        self, server: Loopback, make_model: MakeModel, name: str, effort: object, word: str
    ) -> None:
        """The effort goes out as the service's word, and no temperature beside it."""
        make_model(name=name, reasoning_effort=effort).codegen("hi")
        body = server.journal[0].body
        assert body["reasoning_effort"] == word
        assert "temperature" not in body

    def test_reasoning_effort_elsewhere(self, server: Loopback, make_model: MakeModel) -> None:
        """A model without an effort keeps its temperature and gets no effort."""
        make_model(name="gpt-4", reasoning_effort=0.5, temperature=0.3).codegen("hi")
        assert server.journal[0].body["temperature"] == 0.3
        assert "reasoning_effort" not in server.journal[0].body

    def test_stop_words(self, server: Loopback, make_model: MakeModel) -> None:
        """Stop words go out, under the name that the service has for them."""
        make_model(stop=["END"]).codegen("hi")
        make_model("anthropic", stop="END").codegen("hi")
        openai, anthropic = (entry.body for entry in server.journal)
        assert openai["stop"] == ["END"]
        assert anthropic["stop_sequences"] == ["END"]

    @pytest.mark.parametrize("name", ["o1-mini", "o1-preview"])
    def test_stop_words_elsewhere(
        self, server: Loopback, make_model: MakeModel, caplog: pytest.LogCaptureFixture, name: str
    ) -> None:
        """`o1-mini` and `o1-preview` take no stop words; a warning says that they were left out."""
        make_model(name=name, stop=["END"]).codegen("hi")
        assert "stop" not in server.journal[0].body
        assert "stop is left out" in caplog.text

    def test_settings_reach_the_service(self, server: Loopback, make_model: MakeModel) -> None:
        """Sampling settings go out as set; what is for us does not."""
        make_model(temperature=0.7, top_p=0.9, max_new_tokens=77, seed=5, batch_size=1).codegen("hi")
        body = server.journal[0].body
        assert {name: body[name] for name in ("temperature", "top_p", "seed")} == {
            "temperature": 0.7,
            "top_p": 0.9,
            "seed": 5,
        }
        assert body.get("max_tokens", body.get("max_completion_tokens")) == 77
        ours = {"num_retries", "timeout", "prompt_cache", "drop_params", "modify_params", "max_new_tokens"}
        assert not ours & set(body)


MODEL = {"name": "gpt-4", "provider": "openai", "api_key": KEY}


class TestConfigurationValidation:
    """What a config may say, and how a wrong one is told."""

    def test_minimal(self, tmp_path: Path) -> None:
        """A model with name and provider alone is a config, and the default model."""
        file = tmp_path / "config.toml"
        file.write_text('[models.a]\nname = "gpt-4"\nprovider = "openai"\n', "utf-8")
        config = load_config(file)
        assert config.default_model == "a"
        assert config.models["a"].num_retries == 3

    @pytest.mark.parametrize(
        "key, value, allowed",
        [
            ("temperature", 1.5, "0.0 to 1.0"),
            ("temperature", "0.5", "0.0 to 1.0"),
            ("max_new_tokens", 0, "1 or more"),
            ("max_input_tokens", -1, "1 or more"),
            ("batch_size", 1.5, "integer"),
            ("top_p", 2, "0.0 to 1.0"),
            ("reasoning_effort", "much", "medium"),
            ("num_retries", -1, "0 or more"),
            ("num_retries", True, "integer"),
            ("retry_min_wait", -1, "0 or more"),
            ("retry_min_wait", 20, "at most retry_max_wait"),
            ("timeout", 0, "above 0"),
            ("prompt_cache", "yes", "true or false"),
            ("stream", 1, "true or false"),
            ("stop", 3, "string"),
            ("tools", "editor", "list"),
            ("tools", [{"type": "function"}], "name"),
            ("temprature", 0.5, 'did you mean "temperature"'),
        ],
    )
    def test_wrong_value(self, key: str, value: object, allowed: str) -> None:
        """A wrong value is one ConfigError with the key's path and what is allowed."""
        table = {**MODEL, "retry_max_wait": 10, key: value}
        with pytest.raises(ConfigError) as caught:
            read_config({"models": {"m": table}})
        assert f"models.m.{key}" in str(caught.value)
        assert allowed in str(caught.value)

    @pytest.mark.parametrize("key", ["name", "provider"])
    def test_required(self, key: str) -> None:
        """Name and provider are required."""
        table = {name: value for name, value in MODEL.items() if name != key}
        with pytest.raises(ConfigError, match=rf"models\.m\.{key}: missing"):
            read_config({"models": {"m": table}})

    def test_all_problems_at_once(self) -> None:
        """Everything that is wrong is in one error."""
        tables = {"a": {**MODEL, "top_p": 2}, "b": {"name": "x", "stream": 1}}
        with pytest.raises(ConfigError) as caught:
            read_config({"default_model": "c", "models": tables})
        assert {problem.key for problem in caught.value.problems} == {
            "models.a.top_p",
            "models.b.provider",
            "models.b.stream",
            "default_model",
        }

    def test_syntax_error(self, tmp_path: Path) -> None:
        """What is not TOML is told with line and column."""
        file = tmp_path / "config.toml"
        file.write_text('[models.a]\nname = "gpt-4\n', "utf-8")
        with pytest.raises(ConfigError, match="line 2, column"):
            load_config(file)

    def test_unknown_model(self, make_config: Callable[..., Any]) -> None:
        """A name that the config does not have is told with those that it has."""
        with pytest.raises(UnknownModelError, match="there are: 'm'"):
            ModelFactory(make_config()).create_model("n")

    def test_key_from_the_environment(
        self, server: Loopback, make_model: MakeModel, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """An `env:` key is looked up when the model is created, and is what the service gets."""
        with pytest.raises(CredentialError, match="THE_KEY"):
            make_model(api_key="env:THE_KEY")
        monkeypatch.setenv("THE_KEY", "k-from-environment")
        make_model(api_key="env:THE_KEY").codegen("hi")
        assert server.journal[0].headers["authorization"] == "Bearer k-from-environment"

    def test_same_settings_same_model(self, make_config: Callable[..., Any]) -> None:
        """The same name and settings give the same object, others another."""
        factory = ModelFactory(make_config())
        assert factory.create_model() is factory.create_model("m")
        assert factory.create_model(temperature=0.5) is factory.create_model("m", temperature=0.5)
        assert factory.create_model(temperature=0.5) is not factory.create_model()

    def test_wrong_override(self, make_config: Callable[..., Any]) -> None:
        """Overrides are checked like the config."""
        with pytest.raises(ConfigError, match="temperature"):
            ModelFactory(make_config()).create_model(temperature=3)

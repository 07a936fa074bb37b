"""The contract with the Agentless pipeline, driven as its stages drive it, over real HTTP.

The stages here are our own, of the same shape: localization with a retry at temperature 1, repair with one
greedy reply and then samples, the tool loop, and sums of usage, in a pool of threads with a logger each.
"""

import json
import logging
import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from agentless.errors import (
    BudgetExceededError,
    ConfigError,
    ContextWindowExceededError,
    CredentialError,
    DeadlineExceededError,
    EmptyReplyError,
)
from agentless.loopback import Loopback, Reply, ToolCall, faults
from agentless.test.ways import KEY
from agentless.util.model import (
    AnthropicChatDecoder,
    DecoderBase,
    DeepSeekChatDecoder,
    OpenAIChatDecoder,
    make_model,
)

NAMES = {
    "openai": "gpt-4o-2024-05-13",
    "anthropic": "claude-3-5-sonnet-20241022",
    "deepseek": "deepseek-coder",
}
EDIT = Reply(
    "Fixing.",
    tool_calls=[ToolCall("str_replace_editor", {"path": "a.py", "old_str": "x = 1", "new_str": "x = 2"})],
)
LONG = "a long prompt of many words\n" * 400


@pytest.fixture(params=list(NAMES))
def backend(request: pytest.FixtureRequest) -> str:
    """Each of the pipeline's backends."""
    chosen: str = request.param
    return chosen


@pytest.fixture(autouse=True)
def _environment(server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty working directory, keys, and addresses that lead to the embedded provider."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("AGENTLESS_CONFIG", raising=False)
    for vendor in ("OPENAI", "ANTHROPIC", "DEEPSEEK"):
        monkeypatch.setenv(f"{vendor}_API_KEY", KEY)
    monkeypatch.setenv("OPENAI_BASE_URL", server.openai_url)
    monkeypatch.setenv("ANTHROPIC_BASE_URL", server.anthropic_url)
    monkeypatch.setenv("DEEPSEEK_API_BASE", server.openai_url)


@pytest.fixture
def logger(tmp_path: Path) -> Iterator[logging.Logger]:
    """A logger with a file of its own, as the pipeline gives each instance one."""
    made = logging.getLogger(str(tmp_path / "instance.log"))
    made.setLevel(logging.DEBUG)
    handler = logging.FileHandler(tmp_path / "instance.log")
    made.addHandler(handler)
    yield made
    made.removeHandler(handler)
    handler.close()


@pytest.fixture
def make(logger: logging.Logger) -> Callable[..., Any]:
    """(backend, **arguments) -> a decoder under the pipeline's name for that backend."""

    def decoder(backend: str, **arguments: Any) -> Any:
        return make_model(model=NAMES[backend], backend=backend, logger=logger, **arguments)

    return decoder


@pytest.fixture
def configure(server: Loopback, tmp_path: Path) -> Callable[..., None]:
    """(pipeline's name, **settings) -> a config.toml in the working directory with that one model."""

    def write(name: str, /, budget: float | None = None, **settings: Any) -> None:
        address = server.anthropic_url if settings["provider"] == "anthropic" else server.openai_url
        table = {
            "api_key": KEY,
            "base_url": address,
            "retry_min_wait": 0.01,
            "retry_max_wait": 0.02,
            **settings,
        }
        lines = [f"{key} = {json.dumps(value)}" for key, value in table.items()]
        text = "\n".join([f'[models."{name}"]', *lines, ""])
        if budget is not None:
            text += f"[budget]\nmax_cost = {budget}\n"
        (tmp_path / "config.toml").write_text(text)

    return write


def spent(trajectories: list[dict[str, Any]]) -> dict[str, int]:
    """Tokens of trajectories as a stage adds them up."""
    total: dict[str, int] = {}
    for trajectory in trajectories:
        for name, tokens in trajectory["usage"].items():
            total[name] = total.get(name, 0) + tokens
    return total


def assert_charged(server: Loopback, backend: str, trajectories: list[dict[str, Any]]) -> None:
    """The sums are what the server has charged."""
    bill, total = server.bill, spent(trajectories)
    assert total["completion_tokens"] == bill["completion_tokens"]
    cached = total.get("cache_creation_token", 0) + total.get("cache_read_input_tokens", 0)
    assert total["prompt_tokens"] + cached == bill["prompt_tokens"]
    if backend == "anthropic":
        assert total["cache_creation_token"] == bill["cache_creation_token"]
        assert total["cache_read_input_tokens"] == bill["cache_read_input_tokens"]


# Stages


def test_localization_retries_at_temperature_one(
    server: Loopback, backend: str, make: Callable[..., Any], logger: logging.Logger
) -> None:
    """A greedy reply with nothing valid in it is asked for again, at temperature 1, from a new model."""
    server.script("no idea", "```\na.py\nfunction: f\n```")
    trajectories, temperature = [], 0.0
    for _ in range(5):
        model = make(backend, max_tokens=300, temperature=temperature, batch_size=1)
        trajectory = model.codegen("where?", num_samples=1)[0]
        trajectory["prompt"] = "where?"
        trajectories.append(trajectory)
        logger.info(trajectory)  # not a string
        if "function:" in trajectory["response"]:
            break
        temperature = 1.0
    assert len(trajectories) == 2
    assert [entry.body["temperature"] for entry in server.journal] == [0.0, 1.0]
    assert all(entry.body["max_tokens"] == 300 for entry in server.journal)
    assert_charged(server, backend, trajectories)


def test_repair_takes_one_greedy_reply_and_then_samples(
    server: Loopback, backend: str, make: Callable[..., Any]
) -> None:
    """Ten candidates: one at temperature 0, nine at 0.8; usage sums to the server's bill, cache included."""
    greedy = make(backend, max_tokens=1024, temperature=0, batch_size=1)
    trajectories = greedy.codegen(LONG, num_samples=1, prompt_cache=True)
    samples = make(backend, max_tokens=1024, temperature=0.8, batch_size=9)
    trajectories += samples.codegen(LONG, num_samples=9, prompt_cache=True)
    assert len(trajectories) == 10
    assert all(isinstance(each["response"], str) and each["response"] for each in trajectories)
    stored = [{**each, "prompt": LONG} for each in trajectories]
    assert json.loads(json.dumps(stored)) == stored
    assert_charged(server, backend, trajectories)
    if backend == "openai":
        assert [entry.body.get("n") for entry in server.journal] == [None, 9]
    if backend == "anthropic":
        assert spent(trajectories)["prompt_tokens"] == 0
        assert trajectories[0]["usage"]["cache_creation_token"] > 1024
        assert all(each["usage"]["cache_read_input_tokens"] > 1024 for each in trajectories[1:])


def test_no_samples_besides_the_greedy_one(server: Loopback, backend: str, make: Callable[..., Any]) -> None:
    """With one sample in all, the pipeline makes a model with batch_size 0; it can be made, and used."""
    model = make(backend, temperature=0.8, batch_size=0)
    assert model.batch_size == 0
    assert model.codegen("hi", num_samples=0) == []
    assert len(model.codegen("hi", num_samples=2)) == 2
    assert all("n" not in entry.body for entry in server.journal)


def test_the_tool_loop_gives_blocks_that_can_be_edited(
    server: Loopback, backend: str, make: Callable[..., Any]
) -> None:
    """Turns of Anthropic-shaped blocks from any backend; changing one is seen nowhere else."""
    server.default = lambda entry: EDIT if "successfully" not in json.dumps(entry.body) else "Done."
    trajectories = make(backend, temperature=0).codegen_w_tool("fix", num_samples=1, prompt_cache=False)
    trajectories += make(backend, temperature=0.8).codegen_w_tool("fix", num_samples=2, prompt_cache=True)
    assert len(trajectories) == 3
    for trajectory in trajectories:
        [text, call], [last] = trajectory["response"]
        assert (text["type"], last["text"]) == ("text", "Done.")
        assert (call["type"], call["name"]) == ("tool_use", "str_replace_editor")
        assert call["input"] == {"path": "a.py", "old_str": "x = 1", "new_str": "x = 2"}
        call["input"]["command"] = "str_replace"  # as the post-processing does
    assert json.loads(json.dumps(trajectories)) == trajectories
    assert_charged(server, backend, trajectories)
    answers = [json.dumps(entry.body).count("File is successfully edited") for entry in server.journal]
    assert sorted(answers) == [0, 0, 0, 1, 1, 1]


def test_the_first_turn_is_nudged_in_the_pipelines_words(
    server: Loopback, backend: str, make: Callable[..., Any]
) -> None:
    """A model that only reasons at first is told to edit, once."""
    server.script("I think ...", "That is all.")
    [trajectory] = make(backend).codegen_w_tool("fix")
    assert [turn[0]["text"] for turn in trajectory["response"]] == ["I think ...", "That is all."]
    assert "Please generate editing commands to fix the issue" in json.dumps(server.journal[1].body)


def test_a_pool_of_threads(server: Loopback, backend: str, tmp_path: Path) -> None:
    """Sixteen instances at once, each with its own logger, get their own replies in their own logs."""

    def instance(number: int) -> list[dict[str, Any]]:
        own = logging.getLogger(str(tmp_path / f"{number}.log"))
        own.setLevel(logging.DEBUG)
        own.propagate = False
        own.addHandler(handler := logging.FileHandler(tmp_path / f"{number}.log"))
        model = make_model(NAMES[backend], backend, own, batch_size=3, temperature=0.8)
        try:
            return model.codegen(f"instance {number}", num_samples=3, prompt_cache=True)
        finally:
            handler.close()

    with ThreadPoolExecutor(16) as pool:
        results = list(pool.map(instance, range(16)))
    for number, trajectories in enumerate(results):
        assert len(trajectories) == 3
        assert all(f"instance {number}" in each["response"] for each in trajectories)
        assert NAMES[backend] in (tmp_path / f"{number}.log").read_text()
    assert_charged(server, backend, [each for trajectories in results for each in trajectories])


def test_nothing_is_said_but_to_the_given_logger(
    make: Callable[..., Any],
    configure: Callable[..., None],
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No line on stdout or stderr, and none for another logger, warnings of the model beneath included."""
    configure(NAMES["openai"], name="o3-mini", provider="openai")
    model = make("openai", temperature=0.8, batch_size=2)
    model.codegen("hi", num_samples=2, prompt_cache=True)
    assert capfd.readouterr() == ("", "")
    assert {record.name for record in caplog.records} == {model.logger.name}
    assert "temperature is left out" in caplog.text


# What the decoders are


def test_what_the_server_sees(server: Loopback, backend: str, make: Callable[..., Any]) -> None:
    """The prompt goes out byte for byte, after the system message that the backend has."""
    prompt = "  tabs\t, ünïcode, <|endoftext|> and trailing space \n\n"
    make(backend, max_tokens=7).codegen(prompt)
    [entry] = server.journal
    messages = entry.body["messages"]
    content = messages[-1]["content"]
    assert (content if isinstance(content, str) else content[0]["text"]) == prompt
    assert entry.body["model"] == NAMES[backend]
    assert entry.body["max_tokens"] == 7
    assert entry.body["temperature"] == 0
    assert not {"tools", "n"} & set(entry.body)
    if backend == "anthropic":
        assert len(messages) == 1
        assert "system" not in entry.body
        assert "cache_control" not in json.dumps(entry.body)
    else:
        assert messages[0] == {"role": "system", "content": "You are a helpful assistant."}


def test_a_list_of_messages(server: Loopback, backend: str, make: Callable[..., Any]) -> None:
    """A conversation is taken as well as a prompt, and left as it was."""
    messages = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    make(backend).codegen(messages)
    assert len(messages) == 3
    assert server.journal[0].prompt == "three"


def test_attributes(make: Callable[..., Any], backend: str, logger: logging.Logger) -> None:
    """Decoders have the constructor's arguments as attributes, and their name as their text."""
    model = make(backend, batch_size=3, max_tokens=77, temperature=0.5)
    assert (model.name, model.logger) == (NAMES[backend], logger)
    assert (model.batch_size, model.max_new_tokens, model.temperature) == (3, 77, 0.5)
    assert str(model) == NAMES[backend]
    assert isinstance(model, DecoderBase)
    assert model.is_direct_completion() is False
    kinds = {"openai": OpenAIChatDecoder, "anthropic": AnthropicChatDecoder, "deepseek": DeepSeekChatDecoder}
    assert type(model) is kinds[backend]
    again = kinds[backend](NAMES[backend], logger, batch_size=1, temperature=0, max_new_tokens=5)
    assert again.max_new_tokens == 5
    assert AnthropicChatDecoder.MAX_CODEGEN_ITERATIONS == 10
    assert AnthropicChatDecoder.tools[0]["name"] == "str_replace_editor"


def test_an_unknown_backend(logger: logging.Logger) -> None:
    """A backend that there is not is not implemented, as the pipeline has it."""
    with pytest.raises(NotImplementedError, match="'gemini'"):
        make_model(model="x", backend="gemini", logger=logger)


def test_a_decoder_of_ones_own(logger: logging.Logger) -> None:
    """A fork's subclass of the base needs its two methods only."""

    class Echo(DecoderBase):
        def codegen(self, message: Any, num_samples: int = 1, prompt_cache: bool = False) -> Any:
            return [{"response": message, "usage": {}, "cached": prompt_cache}] * num_samples

        def is_direct_completion(self) -> bool:
            return True

    assert Echo("echo", logger).codegen("x", 2)[1]["response"] == "x"


def test_greedy_samples_are_refused(server: Loopback, backend: str, make: Callable[..., Any]) -> None:
    """Several samples at temperature 0 fail as the pipeline's assertion does, and as our ValueError."""
    for kind in (AssertionError, ValueError):
        with pytest.raises(kind, match="temperature"):
            make(backend, temperature=0).codegen("hi", num_samples=2)
    with pytest.raises(AssertionError, match="temperature"):
        make(backend, temperature=0).codegen_w_tool("hi", num_samples=2)
    assert not server.journal


def test_no_key_is_needed_to_make_a_model(
    make: Callable[..., Any], backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mock runs make models and never ask: a missing key is told at the first request."""
    for vendor in ("OPENAI", "ANTHROPIC", "DEEPSEEK"):
        monkeypatch.delenv(f"{vendor}_API_KEY")
    model = make(backend)
    with pytest.raises(CredentialError, match=f"{backend.upper()}_API_KEY"):
        model.codegen("hi")


def test_deepseeks_key_may_be_openais(
    server: Loopback, make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """DeepSeek's own variable comes first, and OPENAI_API_KEY stands in for it."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-openai-canary")
    make("deepseek").codegen("hi")
    monkeypatch.delenv("DEEPSEEK_API_KEY")
    make("deepseek").codegen("hi")
    keys = [entry.headers["authorization"] for entry in server.journal]
    assert keys == [f"Bearer {KEY}", "Bearer sk-openai-canary"]


# The config


def test_a_name_stands_for_any_model(
    server: Loopback, backend: str, make: Callable[..., Any], configure: Callable[..., None]
) -> None:
    """The pipeline's fixed names are looked up in config.toml; its limits and temperature win."""
    configure(NAMES[backend], name="local", provider="hosted_vllm", max_new_tokens=9, temperature=0.1, seed=7)
    make(backend, max_tokens=300, temperature=0.8, batch_size=2).codegen("hi", num_samples=2)
    [entry] = server.journal
    body = entry.body
    assert (body["model"], body["max_tokens"], body["temperature"]) == ("local", 300, 0.8)
    assert (body["n"], body["seed"]) == (2, 7)


def test_the_tool_loop_on_an_aliased_model(
    server: Loopback, make: Callable[..., Any], configure: Callable[..., None]
) -> None:
    """Under `--backend anthropic`, a server of OpenAI's kind gives Anthropic's blocks and usage."""
    configure(NAMES["anthropic"], name="local", provider="hosted_vllm")
    server.script(EDIT, "Done.")
    [trajectory] = make("anthropic").codegen_w_tool("fix", prompt_cache=True)
    assert trajectory["response"][0][1]["input"]["path"] == "a.py"
    assert {"cache_creation_token", "cache_read_input_tokens"} <= set(trajectory["usage"])
    assert "cache_control" not in json.dumps([entry.body for entry in server.journal])
    assert_charged(server, "anthropic", [trajectory])


def test_the_configs_own_tools_are_not_the_pipelines(
    server: Loopback, make: Callable[..., Any], configure: Callable[..., None], tmp_path: Path
) -> None:
    """Tools in the config, as the specification's example has them, do not turn up in plain prompts."""
    configure(NAMES["openai"], name="gpt-4o", provider="openai")
    with (tmp_path / "config.toml").open("a") as file:
        file.write('tool_choice = "required"\n')
        file.write(f'[[models."{NAMES["openai"]}".tools]]\ntype = "function"\nfunction = {{ name = "x" }}\n')
    make("openai").codegen("hi")
    assert not {"tools", "tool_choice"} & set(server.journal[0].body)


def test_the_config_can_be_elsewhere(
    server: Loopback,
    make: Callable[..., Any],
    configure: Callable[..., None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """AGENTLESS_CONFIG comes before config.toml; a file that is not there is an error."""
    configure(NAMES["openai"], name="elsewhere", provider="openai")
    (tmp_path / "config.toml").rename(tmp_path / "other.toml")
    configure(NAMES["openai"], name="here", provider="openai")
    monkeypatch.setenv("AGENTLESS_CONFIG", str(tmp_path / "other.toml"))
    make("openai").codegen("hi")
    assert server.journal[0].body["model"] == "elsewhere"
    monkeypatch.setenv("AGENTLESS_CONFIG", str(tmp_path / "missing.toml"))
    with pytest.raises(ConfigError, match="no such file"):
        make("openai")


def test_a_changed_config_is_read_again(
    server: Loopback, make: Callable[..., Any], configure: Callable[..., None]
) -> None:
    """An edited config.toml holds from the next model on."""
    for name in ("first", "the-second"):
        configure(NAMES["openai"], name=name, provider="openai")
        make("openai").codegen("hi")
    assert [entry.body["model"] for entry in server.journal] == ["first", "the-second"]


def test_a_wrong_config_says_where_it_is(make: Callable[..., Any], tmp_path: Path) -> None:
    """Whoever has another program's config.toml in the working directory is told how to name ours."""
    (tmp_path / "config.toml").write_text("[server]\nport = 1\n")
    with pytest.raises(ConfigError) as caught:
        make("openai")
    assert "AGENTLESS_CONFIG" in caught.value.__notes__[0]


def test_a_budget_holds_for_the_whole_run(
    server: Loopback, make: Callable[..., Any], configure: Callable[..., None]
) -> None:
    """The config's budget is one for all models of the process, though each prompt makes a model."""
    configure(NAMES["openai"], name="gpt-4o", provider="openai", budget=0.03)
    server.default = Reply("x", usage={"prompt_tokens": 10, "completion_tokens": 1000})  # 0.01 USD
    for _ in range(2):
        make("openai", max_tokens=1024).codegen("hi")
    with pytest.raises(BudgetExceededError):
        make("openai", max_tokens=1024).codegen("hi")
    assert len(server.journal) == 2


# What users met before


def test_a_server_that_ignores_n(make: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that sends one choice whatever is asked for still brings exactly n samples."""
    with Loopback(ignores_n=True) as single:
        monkeypatch.setenv("OPENAI_BASE_URL", single.openai_url)
        trajectories = make("openai", temperature=0.8, batch_size=9).codegen("hi", num_samples=9)
        assert len(trajectories) == 9
        assert_charged(single, "openai", trajectories)


def test_a_server_that_refuses_n(
    server: Loopback, make: Callable[..., Any], configure: Callable[..., None]
) -> None:
    """The config's batch_size bounds the pipeline's: with 1, every sample has a request of its own."""
    configure(NAMES["openai"], name="local", provider="hosted_vllm", batch_size=1)
    assert len(make("openai", temperature=0.8, batch_size=9).codegen("hi", num_samples=3)) == 3
    assert ["n" in entry.body for entry in server.journal] == [False] * 3


@pytest.mark.parametrize(
    "settings,sent",
    [
        ({"name": "o3-mini", "provider": "openai"}, {"max_completion_tokens": 300}),
        ({"name": "o3-mini", "provider": "openai", "max_new_tokens": 9000}, {"max_completion_tokens": 9000}),
        ({"name": "o3-mini", "provider": "openai", "max_new_tokens": 20}, {"max_completion_tokens": 300}),
        ({"name": "gpt-4o", "provider": "openai", "max_new_tokens": 9000}, {"max_tokens": 300}),
        (
            {"name": "claude-3-7-sonnet-20250219", "provider": "anthropic", "reasoning_effort": 0.5},
            {"max_tokens": 2348, "thinking": {"type": "enabled", "budget_tokens": 2048}},
        ),
        (
            {"name": "claude-3-7-sonnet-20250219", "provider": "anthropic", "reasoning_effort": "none"},
            {"max_tokens": 300, "temperature": 0.8},
        ),
    ],
)
def test_room_to_reason(
    server: Loopback,
    make: Callable[..., Any],
    configure: Callable[..., None],
    settings: dict[str, Any],
    sent: dict[str, Any],
) -> None:
    """A model that reasons within the reply's limit gets the config's limit, or its budget on top."""
    configure(NAMES["openai"], **settings)
    make("openai", max_tokens=300, temperature=0.8).codegen("hi")
    body = server.journal[0].body
    assert {key: body.get(key) for key in sent} == sent


def test_reasoning_that_took_all_room_is_told(
    server: Loopback, make: Callable[..., Any], configure: Callable[..., None], tmp_path: Path
) -> None:
    """An empty reply with finish reason length is a result, and the log says what to set."""
    configure(NAMES["openai"], name="o3-mini", provider="openai")
    server.default = Reply("", finish_reason="length", usage={"reasoning_tokens": 300})
    [trajectory] = make("openai", max_tokens=300).codegen("hi")
    assert trajectory["response"] == ""
    assert "set a larger max_new_tokens" in (tmp_path / "instance.log").read_text()


@pytest.mark.parametrize(
    "fault,kind",
    [
        (faults.EmptyText(), EmptyReplyError),
        (faults.EmptyChoices(), EmptyReplyError),
        (faults.ContextExceeded(), ContextWindowExceededError),
        (faults.Stall(), DeadlineExceededError),
    ],
    ids=lambda value: getattr(value, "name", value.__name__ if isinstance(value, type) else None),
)
def test_failures_are_never_empty_replies(
    server: Loopback,
    make: Callable[..., Any],
    configure: Callable[..., None],
    tmp_path: Path,
    fault: faults.Fault,
    kind: type[Exception],
) -> None:
    """What keeps failing raises by its name, is in the instance's log, and shows no key."""
    configure(NAMES["openai"], name="gpt-4o", provider="openai", num_retries=1, timeout=0.5)
    server.default = fault
    with pytest.raises(kind):
        make("openai").codegen("hi")
    log = (tmp_path / "instance.log").read_text()
    assert kind.__name__ in log
    assert KEY not in log


def test_passing_faults_are_waited_for(
    server: Loopback, make: Callable[..., Any], configure: Callable[..., None]
) -> None:
    """An overloaded service is asked again; without a config for minutes, since one failure ends a run."""
    own = make("openai").model.settings
    assert (own.num_retries, own.retry_max_wait) == (10, 60)
    configure(NAMES["openai"], name="gpt-4o", provider="openai")
    server.script(faults.Status(429), faults.Status(503), "there")
    [trajectory] = make("openai").codegen("hi")
    assert (trajectory["response"], trajectory["attempts"]) == ("there", 3)


def test_usage_of_openais_cache(server: Loopback, make: Callable[..., Any]) -> None:
    """With OpenAI, prompt_tokens is the service's count, cached or not, so that the pipeline's sums hold."""
    server.default = Reply("x", usage={"prompt_tokens": 2000, "cache_read_input_tokens": 1500})
    [trajectory] = make("openai").codegen("hi", prompt_cache=True)
    assert trajectory["usage"] == {"completion_tokens": 1, "prompt_tokens": 2000}
    assert trajectory["cost"] == pytest.approx(2000 * 5e-6 + 1.5e-5)  # it has no discount


GUIDE = Path(__file__).parents[2] / "examples" / "agentless_pipeline.md"
CONFIGS = re.findall(r"^```toml\n(.*?)^```$", GUIDE.read_text("utf-8"), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("text", CONFIGS, ids=["openai", "claude", "own server"])
def test_the_guides_configs_work(server: Loopback, logger: logging.Logger, tmp_path: Path, text: str) -> None:
    """Each config of the guide serves the pipeline's names as it says (its servers are the embedded one)."""
    (tmp_path / "config.toml").write_text(re.sub(r"http://localhost:\d+/v1", server.openai_url, text))
    for name in re.findall(r'^\[models\."(.*)"\]', text, re.MULTILINE):
        backend = "anthropic" if name.startswith("claude") else "openai"
        model = make_model(model=name, backend=backend, logger=logger, temperature=0.8, batch_size=3)
        assert len(model.codegen("hi", num_samples=3, prompt_cache=True)) == 3
        assert model.model.settings.name in {entry.body["model"] for entry in server.journal}
        server.script(EDIT, "Done.")
        assert len(model.codegen_w_tool("fix")[0]["response"]) == 2

"""No key leaves: not in errors, their pickles and all that hangs on them, not in tracebacks, not in logs."""

import copy
import functools
import http.server
import io
import json
import logging
import pickle
import threading
import traceback
import types
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import httpx
import pytest

import agentless
from agentless.config import load_config, read_config
from agentless.credentials import Hidden, HiddenURL, HiddenValues
from agentless.errors import (
    AgentlessError,
    ConfigError,
    CredentialError,
    RedirectError,
    StreamInterruptedError,
)
from agentless.llm import importing
from agentless.llm.codegen import CodegenModel
from agentless.llm.importing import load
from agentless.loopback import Loopback, faults
from agentless.test.ways import QUICK, WAYS, Way
from agentless.util.model_factory import ModelFactory

WORD = "canary"
KEY = "sk-canary-0123456789abcdef"
HEADERS = {"x-gateway-token": "gw-canary-0123456789", "x-more": "Bearer tok-canary-0123456789"}
USER, PASSWORD, QUERY = "user-canary-1", "p%40ss-canary-2", "key=q-canary-3"
PROXY_PASSWORD = "px-canary-4"

MODELS = {
    "openai": "gpt-4o",
    "azure": "gpt-4o",
    "anthropic": "claude-3-5-sonnet-20241022",
    "deepseek": "deepseek-chat",
    "mistral": "mistral-large-latest",
    "groq": "llama-3.3-70b-versatile",
    "openrouter": "openai/gpt-4o",
    "gemini": "gemini-2.0-flash",
    "hosted_vllm": "local-model",
    "xai": "grok-3",
    "together_ai": "some/model",
    "cohere": "command-r",
    "fireworks_ai": "some-model",
    "ollama": "llama3",
    "perplexity": "sonar",
}
_ROOTS = frozenset({"anthropic", "azure", "cohere", "gemini", "ollama"})
"""Providers whose address has no `/v1`."""


def model_of(provider: str, root: str, **settings: Any) -> CodegenModel:
    """A model with a canary in its key and headers, at this address."""
    table = {
        "name": MODELS[provider],
        "provider": provider,
        "base_url": root if provider in _ROOTS else f"{root}/v1",
        "api_key": KEY,
        "extra_headers": HEADERS,
        **QUICK,
        "num_retries": 1,
        **({"api_version": "2024-06-01"} if provider == "azure" else {}),
        **settings,
    }
    return ModelFactory(read_config({"models": {"m": table}})).create_model()


# What shows a key


def reachable(start: Any) -> Iterator[tuple[str, Any]]:
    """Every text that can be reached from an object, with the way to it; frames and modules are no way."""
    seen: dict[int, Any] = {}
    todo: deque[tuple[str, Any]] = deque([("error", start)])
    while todo:
        way, value = todo.popleft()
        if id(value) in seen or isinstance(
            value, type | types.ModuleType | types.CodeType | types.TracebackType | types.FrameType | int
        ):
            continue
        seen[id(value)] = value
        assert len(seen) < 20_000, f"an error leads to half of the process, by {way}"
        if isinstance(value, str | bytes | bytearray):
            yield way, value
            continue
        todo += [(f"{way}.{name}", each) for name, each in _parts(value)]


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        for key, item in value.items():
            yield f"{key!r:.30}", item
            yield "key", key
    elif isinstance(value, list | tuple | set | frozenset | deque):
        yield from ((str(number), item) for number, item in enumerate(value))
    if isinstance(value, BaseException):
        for name in ("args", "__cause__", "__context__", "__notes__"):
            yield name, getattr(value, name, None)
    if isinstance(value, types.FunctionType):
        yield "closure", [cell.cell_contents for cell in value.__closure__ or ()]
        yield "defaults", value.__defaults__
        return
    if isinstance(value, functools.partial):
        yield "partial", (value.func, value.args, value.keywords)
    if isinstance(value, types.MethodType):
        yield "self", value.__self__
    for kind in type(value).__mro__:
        slots = kind.__dict__.get("__slots__", ())
        for name in (slots,) if isinstance(slots, str) else slots:
            yield name, getattr(value, name, None)
    yield from getattr(value, "__dict__", {}).items()


OURS = tuple(str(Path(folder).resolve()) for folder in agentless.__path__)


def frames_of(error: BaseException) -> Iterator[str]:
    """What a traceback with local variables shows of this package's frames, of causes and contexts too."""
    seen: set[int] = set()
    todo: list[traceback.TracebackException | None]
    todo = [traceback.TracebackException.from_exception(error, capture_locals=True)]
    while todo:
        shown = todo.pop()
        if shown is None or id(shown) in seen:
            continue
        seen.add(id(shown))
        for frame in shown.stack:
            path = str(Path(frame.filename).resolve())
            if path.startswith(OURS) and "/agentless/test/" not in path:
                for name, text in (frame.locals if frame.locals is not None else {}).items():
                    yield f"{Path(path).name}:{frame.lineno} {name} = {text}"
        todo += [shown.__cause__, shown.__context__, *(getattr(shown, "exceptions", None) or ())]


def leaks(error: BaseException) -> list[str]:
    """Every place in which an error shows a canary."""
    texts = {
        "str": str(error),
        "repr": repr(error),
        "vars": repr(vars(error)),
        "format": "".join(traceback.format_exception(error)),
    }
    found = [f"{name}: {text[:300]}" for name, text in texts.items() if WORD in text]
    found += [f"{way}: {text[:200]!r}" for way, text in reachable(error) if _has(text)]
    found += [text[:300] for text in frames_of(error) if WORD in text]
    pickled = pickle.dumps(error)
    if WORD.encode() in pickled:
        found.append(f"pickle: {pickled!r:.300}")
    other = pickle.loads(pickled)  # noqa: S301  # made above
    found += [f"unpickled {way}: {text[:200]!r}" for way, text in reachable(other) if _has(text)]
    return found


def _has(text: Any) -> bool:
    return WORD in text if isinstance(text, str) else WORD.encode() in bytes(text)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """Everything that any logger says, at DEBUG."""
    text = io.StringIO()
    handler = logging.StreamHandler(text)
    root = logging.getLogger()
    loggers = [root, *(each for each in root.manager.loggerDict.values() if isinstance(each, logging.Logger))]
    levels = [(each, each.level) for each in loggers]
    for each in loggers:
        each.setLevel(logging.DEBUG)
    root.addHandler(handler)
    yield text
    root.removeHandler(handler)
    for each, level in levels:
        each.setLevel(level)


def failure_of(model: CodegenModel, way: Way) -> BaseException:
    """What a call raises."""
    with pytest.raises(Exception) as caught:
        way.call(model)
    return caught.value


# A raw server, for every provider alike


class Raw:
    """Answers each request by a function of the handler; counts requests, and connections."""

    def __init__(self, answer: Callable[[http.server.BaseHTTPRequestHandler], None]) -> None:
        self.requests: list[str] = []
        self.connections = 0
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                outer.connections += 1
                super().setup()

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                outer.requests.append(f"{self.command} {self.path}")
                answer(self)

            do_GET = do_POST  # noqa: N815  # what a followed redirect would be

            def log_message(self, *_: Any) -> None:
                """Say nothing on stderr."""

        class Server(http.server.ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None:
                """A client that leaves is no error."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def host(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._server.server_port}"


def says(
    status: int, body: str = "{}", **headers: str
) -> Callable[[http.server.BaseHTTPRequestHandler], None]:
    """An answer with this status; `{key}` in its body is all that the request had to say."""

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        told = json.dumps(f"{handler.path} {handler.headers}")[1:-1]
        content = body.replace("{key}", told).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("content-length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return answer


def cuts(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Answer by a body that breaks off."""
    handler.send_response(200)
    handler.send_header("content-length", "1000")
    handler.end_headers()
    handler.wfile.write(b'data: {"id": "1"}\n\n')
    handler.close_connection = True


def closes(handler: http.server.BaseHTTPRequestHandler) -> None:
    """Leave without an answer."""
    handler.close_connection = True


ECHO = '{"error": {"message": "bad request: {key}", "type": "invalid_request_error"}}'


# Errors of calls


FAULTS: tuple[faults.Fault, ...] = (
    faults.InvalidKey(),
    faults.Status(400, body={"error": {"message": f"what is {KEY}?"}}),
    faults.Status(500),
    faults.QuotaExhausted(),
    faults.Reset(),
    faults.CutBody(),
    faults.Garbage(),
    faults.MalformedBody(),
    faults.CorruptEvent(),
    faults.ErrorEvent(),
    faults.TruncatedStream(),
    faults.Reset(when="stream"),
    faults.EmptyText(),
    faults.Stall(),
)


@pytest.mark.parametrize("provider", ["openai", "anthropic", "mistral"])
def test_no_key_in_any_error_of_a_call(server: Loopback, log: io.StringIO, provider: str) -> None:
    """Whatever goes wrong, whole and streamed, blocking and awaited: nothing that leaves shows a key."""
    model = model_of(provider, f"http://127.0.0.1:{server.port}", timeout=0.3)
    told: list[str] = []
    # Each fault by one whole and one streaming way, which take turns at blocking and awaiting.
    for number, fault in enumerate(FAULTS):
        for way in WAYS[number % 2 :: 2]:
            server.default = fault
            try:
                way.call(model)
            except Exception as error:  # noqa: BLE001  # each is looked at
                told += [f"{fault} {way}: {type(error).__name__}: {leak}" for leak in leaks(error)]
            else:
                assert isinstance(fault, faults.CorruptEvent | faults.ErrorEvent | faults.TruncatedStream)
    assert not told, "\n".join(told[:20])
    assert WORD not in log.getvalue(), [line for line in log.getvalue().splitlines() if WORD in line][:5]


ANSWERS = {
    "echo": says(401, ECHO),
    "echo in a 200": says(200, ECHO),
    "echo in a header": says(429, ECHO, x_echo=KEY, retry_after="0", set_cookie=f"key={KEY}"),
    "page": says(404, "<html>{key}</html>"),
    "overloaded": says(503, "{key}"),
    "redirect": says(307, "{key}", location=f"http://u:{KEY}@127.0.0.1:9/v1?key={KEY}"),
    "cut": cuts,
    "closed": closes,
}


@pytest.mark.parametrize("provider", MODELS)
def test_no_key_in_what_any_provider_quotes(log: io.StringIO, provider: str) -> None:
    """Also with a user and a query in the address, and with the service quoting all that it got."""
    told: list[str] = []
    for number, (name, answer) in enumerate(ANSWERS.items()):
        with Raw(answer) as raw:
            base = f"http://{USER}:{PASSWORD}@{raw.host}{'' if provider in _ROOTS else '/v1'}"
            model = model_of(provider, raw.host, base_url=f"{base}?{QUERY}" if number % 2 else base)
            way = WAYS[number // 2 % 4]
            error = failure_of(model, way)
            told += [f"{name} {way}: {type(error).__name__}: {leak}" for leak in leaks(error)]
    assert not told, "\n".join(told[:20])
    assert WORD not in log.getvalue(), [line for line in log.getvalue().splitlines() if WORD in line][:5]


def forget_clients() -> None:
    """Have litellm make its clients anew: they ask the environment for proxies when they are made."""
    litellm = load()
    litellm.in_memory_llm_clients_cache.flush_cache()
    vars(litellm).pop("module_level_aclient", None)
    importing._client = None


@pytest.mark.parametrize("provider", ["openai", "anthropic", "mistral"])
def test_no_key_of_a_proxy(log: io.StringIO, provider: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A proxy's password is as little shown, whether it refuses, breaks or answers."""
    told: list[str] = []
    answers = {**ANSWERS, "proxy": says(407, "{key}")}
    for number, (name, answer) in enumerate(answers.items()):
        with Raw(answer) as raw:
            proxy = f"http://proxy-user:{PROXY_PASSWORD}@{raw.host}"
            for variable in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy"):
                monkeypatch.setenv(variable, proxy)
            for scheme, way in (("http", WAYS[0]), ("https", WAYS[3])):
                forget_clients()
                model = model_of(provider, f"{scheme}://service{number}.example")
                error = failure_of(model, way)
                told += [f"{name} {way}: {type(error).__name__}: {leak}" for leak in leaks(error)]
            assert raw.connections, f"{name}: the proxy was not used"
    forget_clients()
    assert not told, "\n".join(told[:20])
    assert WORD not in log.getvalue(), [line for line in log.getvalue().splitlines() if WORD in line][:5]


# Redirects


@pytest.mark.parametrize("provider", MODELS)
def test_a_redirect_is_a_final_error(provider: str) -> None:
    """One request, no connection at the other host, and both addresses in the error; whole and streamed."""
    redirect: dict[str, Any] = {}

    def answer(handler: http.server.BaseHTTPRequestHandler) -> None:
        says(**redirect)(handler)

    with Raw(says(200)) as other, Raw(answer) as raw:
        redirect["location"] = f"http://{USER}:{PASSWORD}@{other.host}/v2?{QUERY}"
        for number, status in enumerate((301, 302, 303, 307, 308)):
            redirect.update(status=status)
            for way in WAYS[number % 2 :: 2]:
                raw.requests.clear()
                error = failure_of(model_of(provider, f"http://{raw.host}"), way)
                assert isinstance(error, RedirectError), error
                assert len(raw.requests) == 1
                assert (error.status, error.location) == (status, f"http://***@{other.host}/v2?***")
                assert MODELS[provider] in error.model
                assert error.address.startswith(f"http://{raw.host}")
                assert error.address in str(error)
                assert f"redirects to {error.location}" in str(error)
                assert "base_url" in str(error)
                assert any("1 attempt in" in note for note in error.__notes__)
                twin = pickle.loads(pickle.dumps(error))  # noqa: S301  # made here
                assert vars(twin) == vars(error)
        assert other.connections == 0


@pytest.mark.parametrize(
    "location, shown",
    [
        (None, "without saying where to"),
        ("/v2/chat", "http://HOST/v2/chat"),
        ("//elsewhere/x", "http://elsewhere/x"),
        ("http://[", "an address that cannot be read"),
        ("mailto:x", "mailto:x"),
    ],
)
def test_where_a_redirect_points_to(location: str | None, shown: str) -> None:
    """Whatever the header has, or has not: the same error."""
    headers = {} if location is None else {"location": location}
    with Raw(says(308, **headers)) as raw:
        error = failure_of(model_of("openai", f"http://{raw.host}"), WAYS[0])
        assert isinstance(error, RedirectError)
        assert shown.replace("HOST", raw.host) in str(error)
        assert len(raw.requests) == 1


def test_a_redirect_costs_nothing() -> None:
    """It is no reply: neither charged nor unknown."""
    with Raw(says(302, location="http://127.0.0.1:9/")) as raw:
        model = model_of("openai", f"http://{raw.host}")
        failure_of(model, WAYS[0])
    total = model.ledger.snapshot()["total"]
    assert (total["attempts"], total["cost"]) == (1, 0)


# Errors that never got to a connection


def test_a_cause_travels_as_text() -> None:
    """A request in a cause stays where it was, whoever made the error."""
    error = StreamInterruptedError("cut")
    request = httpx.Request("POST", "http://host", headers={"authorization": KEY})
    error.__cause__ = httpx.ReadError("broken", request=request)
    error.__cause__.add_note("a note")
    pickled = pickle.dumps(error)
    assert WORD.encode() not in pickled
    cause = pickle.loads(pickled).__cause__  # noqa: S301  # made above
    assert isinstance(cause, AgentlessError)
    assert str(cause) == "httpx.ReadError: broken"
    assert cause.__notes__ == ["a note"]
    error.__cause__ = TimeoutError("late")
    assert repr(pickle.loads(pickle.dumps(error)).__cause__) == "TimeoutError('late')"  # noqa: S301


def test_no_key_in_an_error_of_the_config(tmp_path: Path) -> None:
    """From the file on: what is wrong with a neighbour shows no key, in no frame of ours."""
    table = {
        "name": "x",
        "provider": "openai",
        "api_key": KEY,
        "extra_headers": HEADERS,
        "base_url": f"http://{USER}:{PASSWORD}@host/v1?{QUERY}",
        "extra_body": {"token": KEY},
    }
    file = tmp_path / "config.toml"
    lines = [f"{name} = {json.dumps(value)}" for name, value in table.items() if isinstance(value, str)]
    file.write_text("\n".join(["[models.m]", *lines, "temperature = 7"]))
    factory = ModelFactory(read_config({"models": {"m": table}}))
    wrong: list[Callable[[], Any]] = [
        lambda: load_config(file),
        lambda: read_config({"models": {"m": {**table, "temperature": 7}}}),
        lambda: read_config({"models": {"m": table}, "defaults": {**table, "top_p": "x"}}),
        lambda: factory.create_model(temperature=7, api_key=KEY),
        lambda: factory.create_model(None, top_k=7, extra_headers=HEADERS),
    ]
    for make in wrong:
        with pytest.raises(ConfigError) as caught:
            make()
        assert leaks(caught.value) == []


def test_no_environment_in_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """A variable that is not set is no reason to show all the others."""
    monkeypatch.setenv("ANOTHER_KEY", KEY)
    table = {"name": "gpt-4o", "provider": "openai"}
    for settings in ({}, {"api_key": "env:NOT_SET"}, {"api_key": KEY, "base_url": "env:NOT_SET"}):
        with pytest.raises(CredentialError) as caught:
            ModelFactory(read_config({"models": {"m": {**table, **settings}}})).create_model()
        assert leaks(caught.value) == []


# What is no key


@pytest.mark.parametrize("place", ["literal", "reference", "usual variable"])
@pytest.mark.parametrize(
    "key, told",
    [
        ("'sk-canary'", "has quotes in it"),
        ('"sk-canary"', "has quotes in it"),
        ("sk-canary\u2019", "beyond ASCII at place 10 (a typographic quote)"),
        ("sk-c\u0430nary", "beyond ASCII at place 5"),
        ("os.environ/MY_KEY", 'write "env:MY_KEY"'),
        ("os.environ['MY_KEY']", 'write "env:MY_KEY"'),
        ("<your key>", "is a placeholder"),
        ("<YOUR_API_KEY>", "is a placeholder"),
        ("your-api-key", "is a placeholder"),
        ("YOUR_OPENAI_API_KEY_HERE", "is a placeholder"),
        ("sk-your-key-here", "is a placeholder"),
        ("{{OPENAI_API_KEY}}", "is a placeholder"),
    ],
)
def test_what_is_no_key_is_refused(
    server: Loopback, monkeypatch: pytest.MonkeyPatch, place: str, key: str, told: str
) -> None:
    """At `create_model`, with what to do, wherever the key is from; nothing is sent."""
    setting = {"literal": {"api_key": key}, "reference": {"api_key": "env:MY_VARIABLE"}}.get(place, {})
    monkeypatch.setenv("MY_VARIABLE" if place == "reference" else "OPENAI_API_KEY", key)
    table = {"name": "gpt-4o", "provider": "openai", "base_url": server.openai_url, **setting}
    factory = ModelFactory(read_config({"models": {"m": table}}))  # other models may be fine
    with pytest.raises(CredentialError) as caught:
        factory.create_model()
    assert told in str(caught.value)
    assert '(model "m")' in str(caught.value)
    assert "models.m" in str(caught.value)
    assert WORD not in str(caught.value)
    assert not server.journal


@pytest.mark.parametrize("key", ["EMPTY", "none", "sk-no-key-required", "sk-ant-api03-a_b-c", "x", "a<b>c"])
def test_what_may_be_a_key_is_none_of_our_business(key: str) -> None:
    """Servers of one's own take anything, or a word of their own."""
    model_of("hosted_vllm", "http://127.0.0.1:9", api_key=key)


def test_headers_are_checked_as_far_as_they_can_be_sent() -> None:
    """Quotes and angles may stand there; what HTTP cannot carry, and litellm's notation, may not."""
    model_of("openai", "http://127.0.0.1:9", extra_headers={"if-match": '"x"', "from": "<a@b>"})
    for text in ("caf\u00e9", "os.environ/TOKEN"):
        with pytest.raises(CredentialError, match=r"models\.m\.extra_headers\.x-y"):
            model_of("openai", "http://127.0.0.1:9", extra_headers={"x-y": text})


# A hidden text


def test_a_hidden_text_is_sent_and_not_shown(server: Loopback) -> None:
    """To whoever sends it, it is the text; to whoever prints what holds it, stars."""
    key = Hidden(KEY)
    assert (key, f"Bearer {key}", json.dumps([key]), key.encode()) == (
        KEY,
        f"Bearer {KEY}",
        json.dumps([KEY]),
        KEY.encode(),
    )
    assert copy.deepcopy({"a": [key]})["a"][0] is key
    assert WORD not in repr(
        {"key": key, "headers": HiddenValues(x=KEY), "url": HiddenURL(f"http://h/?k={KEY}")}
    )
    with pytest.raises(pickle.PicklingError, match="env:VARIABLE"):
        pickle.dumps({"key": key})
    model_of("openai", f"http://127.0.0.1:{server.port}").codegen("hi")
    [entry] = server.journal
    assert entry.headers["authorization"] == f"Bearer {KEY}"
    assert {name: entry.headers[name] for name in HEADERS} == HEADERS

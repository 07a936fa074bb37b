"""A process from its first import to its end: threads, loops, forks, exit, traces and keys.

Each test is a small script in an interpreter of its own, with Python's development mode and warnings as
errors where that is possible. Whatever it writes to stderr is a failure.
"""

import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agentless.errors import AuthenticationError
from agentless.llm.codegen import CodegenModel
from agentless.loopback import Loopback, faults
from agentless.test.ways import KEY

ROOT = Path(__file__).parent.parent.parent
STRICT = ("-X", "dev", "-W", "error")
# Without development mode: its loops tell of every turn of more than 0.1 s, such as a blocking call's.
PLAIN = ("-W", "error")
EXIT_SECONDS = 0.5

PRELUDE = """
import asyncio, os, sys, threading, time
from agentless.config import read_config
from agentless.loopback import Loopback, Reply, faults
from agentless.util.model_factory import ModelFactory

server = Loopback().start()
quick = {"api_key": "k", "retry_min_wait": 0.01, "retry_max_wait": 0.02, "timeout": 20}
factory = ModelFactory(read_config({
    "default_model": "gpt",
    "models": {
        "gpt": {"name": "gpt-4o", "provider": "openai", "base_url": server.openai_url, **quick},
        "claude": {
            "name": "claude-3-5-sonnet-20241022",
            "provider": "anthropic",
            "base_url": server.anthropic_url,
            **quick,
        },
    },
}))
models = [factory.create_model("gpt"), factory.create_model("claude")]
model = models[0]
server.default = "one two three four"

def text(chunks):
    return "".join(chunk["response"] for chunk in chunks)

def in_threads(count, work):
    failures = []
    def guarded():
        try:
            work()
        except BaseException as error:
            failures.append(error)
    threads = [threading.Thread(target=guarded) for _ in range(count)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    assert not failures, failures
"""

RunScript = Callable[..., str]


@pytest.fixture
def run_script(tmp_path: Path) -> RunScript:
    """(source, *interpreter options, **environment) -> stdout of a script that ends well and in silence."""

    def run(source: str, *options: str, **environ: str) -> str:
        script = tmp_path / "script.py"
        script.write_text(source, "utf-8")
        done = subprocess.run(
            [sys.executable, *(options or STRICT), str(script)],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environ},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=600,
            check=False,
        )
        assert done.stderr == ""
        assert done.returncode == 0
        return done.stdout

    return run


# Threads and loops


def test_running_loop_and_many_threads(run_script: RunScript) -> None:
    """The blocking methods work inside a running loop, as in a notebook, and from 64 threads at once."""
    script = """
async def cell():
    for model in models:
        assert model.codegen("hi")[0]["response"] == "one two three four"
        assert text(model.codegen_stream("hi")) == "one two three four"
        assert (await model.codegen_async("hi"))[0]["response"] == "one two three four"

asyncio.run(cell())
assert len(server.journal) == 6
server.reset()
server.default = Reply("one two three four", delay=0.1)

def work():
    for model in models:
        assert model.codegen("hi")[0]["response"] == "one two three four"
        assert text(model.codegen_stream("hi")) == "one two three four"

in_threads(64, work)
print(len(server.journal))
"""
    assert run_script(PRELUDE + script, *PLAIN) == "256\n"


def test_many_loops(run_script: RunScript) -> None:
    """16 loops at once, then 20 one after the other, with streams broken off in each: all works."""
    script = """
server.default = Reply("one two three four", chunk_delay=0.005)

async def session():
    for model in models:
        assert (await model.codegen_async("hi"))[0]["response"] == "one two three four"
        assert text([chunk async for chunk in model.codegen_stream_async("hi")]) == "one two three four"
        async for chunk in model.codegen_stream_async("hi"):
            break
        for chunk in model.codegen_stream("hi"):
            break

async def broken(model):
    return [chunk async for chunk in model.codegen_stream_async("hi")]

in_threads(16, lambda: asyncio.run(session()))
for _ in range(20):
    for model in models:
        server.script(faults.TruncatedStream())
        try:
            asyncio.run(broken(model))
        except ConnectionError:
            pass
        else:
            raise AssertionError("a cut stream was reported as finished")
    asyncio.run(session())
print(len(server.journal))
"""
    assert run_script(PRELUDE + script, *PLAIN) == f"{(16 + 20) * 8 + 20 * 2}\n"


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
def test_fork(run_script: RunScript) -> None:
    """After a fork, in a process that has called before, child and parent both go on calling."""
    script = """
for model in models:
    model.codegen("hi")
    text(model.codegen_stream("hi"))
child = os.fork()
if child == 0:
    for model in models:
        print(model.codegen("hi")[0]["response"])
        print(text(model.codegen_stream("hi")), flush=True)
    sys.exit(0)
assert os.waitpid(child, 0)[1] == 0
for model in models:
    print(model.codegen("hi")[0]["response"])
"""
    # Python 3.12 and later warn of any fork beside threads.
    output = run_script(PRELUDE + script, "-W", "error", "-W", "ignore::DeprecationWarning")
    assert output == "one two three four\n" * 6


def test_spawn(run_script: RunScript, server: Loopback) -> None:
    """A model with an `env:` key travels to a spawned process and works there."""
    script = """
import multiprocessing, os
from agentless.config import read_config
from agentless.util.model_factory import ModelFactory

def call(model):
    [reply] = model.codegen("hi")
    return reply["response"]

if __name__ == "__main__":
    table = {"name": "gpt-4o", "provider": "openai", "api_key": "env:KEY", "base_url": os.environ["URL"]}
    model = ModelFactory(read_config({"models": {"m": table}})).create_model()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.apply(call, (model,)))
        pool.close()
        pool.join()
"""
    server.default = "from afar"
    output = run_script(script, "-W", "error", KEY="k-from-environment", URL=server.openai_url)
    assert output == "from afar\n"
    assert server.journal[0].headers["authorization"] == "Bearer k-from-environment"


def test_literal_key_does_not_travel(make_model: Callable[..., CodegenModel]) -> None:
    """A model with its key written out cannot be pickled; the error says what to write instead."""
    with pytest.raises(pickle.PicklingError, match="env:") as caught:
        pickle.dumps(make_model())
    assert KEY not in str(caught.value)


# The end


def test_exit_is_silent_and_quick(tmp_path: Path) -> None:
    """The interpreter ends without a word, within half a second after the last line."""
    script = tmp_path / "script.py"
    last = """
for model in models:
    model.codegen("hi")
    text(model.codegen_stream("hi"))
    asyncio.run(model.codegen_async("hi"))
    next(model.codegen_stream("hi"))
print(time.time(), flush=True)
"""
    script.write_text(PRELUDE + last, "utf-8")
    seconds = []
    for _ in range(3):  # a busy machine may take longer once
        done = subprocess.run(
            [sys.executable, "-W", "error", str(script)], capture_output=True, text=True, check=False
        )
        ended = time.time()
        assert (done.returncode, done.stderr) == (0, "")
        seconds.append(ended - float(done.stdout))
        if seconds[-1] < EXIT_SECONDS:
            break
    assert min(seconds) < EXIT_SECONDS


def test_pool_outlives_the_main_thread(run_script: RunScript) -> None:
    """Calls that a thread pool still has to make after the main thread's last line are all made."""
    # Imported before us: what was registered first for the end of the main thread runs last.
    first = "from concurrent.futures import ThreadPoolExecutor\n"
    script = """
model.codegen("hi")
server.default = Reply("x", delay=0.1)
pool = ThreadPoolExecutor(2)

def work(number):
    answered = models[number % 2].codegen("hi")[0]["response"]
    streamed = text(models[number % 2].codegen_stream("hi"))
    os.write(1, f"{answered} {streamed}\\n".encode())  # in one piece

for number in range(6):
    pool.submit(work, number)
"""
    assert run_script(first + PRELUDE + script) == "x x\n" * 6


def test_daemon_threads_end_in_silence(run_script: RunScript) -> None:
    """Daemon threads that still wait for a reply or a chunk at exit print nothing, and hold up nobody."""
    script = """
model.codegen("hi")
server.default = Reply("x y z", delay=60)
for model in models:
    threading.Thread(target=model.codegen, args=("hi",), daemon=True).start()
    threading.Thread(target=lambda model=model: list(model.codegen_stream("hi")), daemon=True).start()
    work = model.codegen_async("hi")
    threading.Thread(target=asyncio.run, args=(work,), daemon=True).start()
server.wait_for(7)
print("end")
"""
    assert run_script(PRELUDE + script) == "end\n"


# Traces


def test_no_traces(run_script: RunScript, server: Loopback, tmp_path: Path) -> None:
    """Import, load and calls leave root logger, environment, warning filters and stdout as they were."""
    script = """
import asyncio, logging, os, sys, warnings

def state():
    return {
        "handlers": list(logging.getLogger().handlers),
        "level": logging.getLogger().level,
        "httpx": logging.getLogger("httpx").level,
        "environment": dict(os.environ),
        "filters": list(warnings.filters),
        "hook": (sys.excepthook, warnings.showwarning),
    }

before = state()
import agentless
config = agentless.load_config("config.toml")
model = agentless.ModelFactory(config).create_model()
model.codegen("hi")
list(model.codegen_stream("hi"))
asyncio.run(model.codegen_async("hi"))
after = state()
for name in before:
    assert before[name] == after[name], (name, before[name], after[name])
"""
    config = {"name": "gpt-4o", "provider": "openai", "api_key": "k", "base_url": server.openai_url}
    lines = "\n".join(f'{key} = "{value}"' for key, value in config.items())
    (tmp_path / "config.toml").write_text(f"[models.m]\n{lines}\n", "utf-8")
    assert run_script(script) == ""


def test_libraries_do_not_log_on_their_own(run_script: RunScript) -> None:
    """With the root logger at DEBUG, nothing is written but by the application's handlers."""
    script = """
import io, logging
logging.basicConfig(stream=io.StringIO(), level=logging.DEBUG)
model.codegen("hi")
text(model.codegen_stream("hi"))
"""
    assert run_script(PRELUDE + script, *PLAIN) == ""


def test_creating_models_imports_no_litellm(run_script: RunScript) -> None:
    """Config, factory and every model of config.toml are there before litellm or openai is imported."""
    script = f"""
import sys
from agentless.config import load_config
from agentless.util.model_factory import ModelFactory
import agentless.errors

factory = ModelFactory(load_config({str(ROOT / "config.toml")!r}))
for name in factory.config.models:
    repr(factory.create_model(name))
factory.create_model("offline", temperature=0.5)
print(sorted({{name.split(".")[0] for name in sys.modules}} & {{"litellm", "openai", "tiktoken"}}))
"""
    keys = {f"{name}_API_KEY": "k" for name in ("OPENAI", "ANTHROPIC", "DEEPSEEK")}
    assert run_script(script, **keys) == "[]\n"


def test_litellms_objects_are_left_out_of_collections(run_script: RunScript) -> None:
    """After its import a full collection has little to look through."""
    script = """
import gc
model.codegen("hi")
print(gc.isenabled(), gc.get_freeze_count() > 100_000)
"""
    assert run_script(PRELUDE + script, *PLAIN) == "True True\n"


def test_preloading_is_in_nobodys_way(run_script: RunScript) -> None:
    """With `preload`, `create_model` returns before litellm is there; a fork has all of it, an exit too."""
    script = """
import os, sys, threading
factory = ModelFactory(config, preload=True)
model = factory.create_model()
factory.create_model(temperature=0.5)
names = [thread.name for thread in threading.enumerate()]
print(names.count("agentless-import"), importing.is_loaded())
if child := os.fork():
    print(os.waitpid(child, 0)[1])
    importing.begin()
    print(importing.is_loaded(), "agentless-import" in [thread.name for thread in threading.enumerate()])
    print(model.codegen("hi")[0]["response"])
else:
    assert model.codegen("hi")[0]["response"]
    os._exit(0)
"""
    start = """
from agentless.llm import importing
from agentless.config import read_config
from agentless.loopback import Loopback
from agentless.util.model_factory import ModelFactory

server = Loopback(default="here").start()
table = {"name": "gpt-4o", "provider": "openai", "api_key": "k", "base_url": server.openai_url}
config = read_config({"models": {"m": table}})
"""
    assert run_script(start + script, *PLAIN) == "1 False\n0\nTrue False\nhere\n"
    ends_at_once = "ModelFactory(config, preload=True).create_model()\nserver.close()"
    assert run_script(start + ends_at_once, *PLAIN) == ""
    outlived = """
import threading
model = ModelFactory(config, preload=True).create_model()
def late():
    threading.main_thread().join()
    print(model.codegen("hi")[0]["response"])
    server.close()
threading.Thread(target=late).start()
"""
    assert run_script(start + outlived, *PLAIN) == "here\n"


def test_the_first_call_may_come_after_the_last_line(run_script: RunScript) -> None:
    """A pool's workers make the process's first calls when the main thread is done."""
    script = """
from concurrent.futures import ThreadPoolExecutor
def late():
    while not threading._SHUTTING_DOWN:  # until the last line is behind us
        time.sleep(0.01)
    os.write(1, (model.codegen("hi")[0]["response"] + "\\n").encode())  # in one piece
pool = ThreadPoolExecutor(2)
for _ in range(4):
    pool.submit(late).add_done_callback(lambda done: done.exception() and print(done.exception()))
"""
    assert run_script(PRELUDE + script, *PLAIN) == "one two three four\n" * 4


@pytest.mark.parametrize("after", [0.3, 0.8, 1.2, 1.5, 1.8])
def test_leaving_in_the_middle_of_the_import_ends(run_script: RunScript, after: float) -> None:
    """Ctrl-C in the first call waits for the rest of the import at most, and not for a lock without owner."""
    script = f"""
import signal
threading.Timer({after}, lambda: os.kill(os.getpid(), signal.SIGINT)).start()
try:
    model.codegen("hi")
except KeyboardInterrupt:
    print("left")
"""
    assert run_script(PRELUDE + script, *PLAIN) in {"left\n", ""}


def test_logging_once_in_its_format(run_script: RunScript) -> None:
    """With [logging] each line is written once, in its format; the application's root logger has none."""
    script = """
import logging, sys
from agentless.config import read_config
from agentless.util.model_factory import ModelFactory

logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="root %(message)s")
root = list(logging.getLogger().handlers), logging.getLogger().level
table = {"name": "o1-mini", "provider": "loopback", "stop": ["END"]}
config = read_config({
    "models": {"m": table},
    "logging": {"level": "warning", "format": "%(levelname)s|%(name)s|%(message)s", "file": "out.log"},
})
for _ in range(2):
    model = ModelFactory(config).create_model()
model.codegen("hi")
logging.getLogger("agentless").info("unheard")
assert root == (list(logging.getLogger().handlers), logging.getLogger().level)
logging.info("the application's own")
with open("out.log") as file:
    print(file.read(), end="")
"""
    lines = run_script(script).splitlines()
    ours = [line for line in lines if "stop is left out" in line]
    assert "root the application's own" in lines
    assert len(ours) == 2, "one for each of the two factories' models"
    assert all(line.startswith("WARNING|agentless|m: stop is left out") for line in ours)
    assert "unheard" not in "".join(lines)


# Keys


def test_no_key_is_ever_shown(run_script: RunScript, server: Loopback) -> None:
    """A key is in no repr, log (root logger at DEBUG), error, traceback or pickle, even if echoed."""
    script = """
import asyncio, copy, io, logging, os, pickle, traceback
log = io.StringIO()
logging.basicConfig(stream=log, level=logging.DEBUG)
from agentless.config import read_config
from agentless.loopback import Loopback, Reply, faults
from agentless.util.model_factory import ModelFactory

server = Loopback().start()
seen = {}

def see(where, *things):
    for thing in things:
        text = thing if isinstance(thing, str) else f"{thing!r} {thing}"
        seen[where] = seen.get(where, "") + text

def see_error(where, error):
    see(where, error, *traceback.format_exception(error), repr(pickle.dumps(error)), repr(vars(error)))
    see(where, *getattr(error, "__notes__", ()), repr(copy.copy(error)))
    response = getattr(error, "response", None)
    if response is not None:
        see(where, response.text)

tables = {}
for provider, name, url in (
    ("openai", "gpt-4o", server.openai_url),
    ("anthropic", "claude-3-5-sonnet-20241022", server.anthropic_url),
    ("deepseek", "deepseek-chat", server.openai_url),
    ("hosted_vllm", "local", server.openai_url),
):
    for key in ("sk-canary-literal-0123456789", "env:CANARY"):
        tables[f"{provider} {key[:3]}"] = {
            "name": name, "provider": provider, "api_key": key, "base_url": url, "num_retries": 1,
            "retry_min_wait": 0.01, "retry_max_wait": 0.01, "timeout": 5,
            "extra_headers": {"X-Other": "env:OTHER"},
        }
config = read_config({"default_model": "openai env", "models": tables})
factory = ModelFactory(config)
see("config", config, factory, [config], vars(factory))
for name in tables:
    model = factory.create_model(name)
    see("model", model, model.settings, model.capabilities, repr(vars(model)))
    try:
        see("pickle", repr(pickle.dumps(model)))
    except pickle.PicklingError as error:
        see_error("pickling", error)

    async def call():
        await model.codegen_async("hi")

    async def stream():
        async for chunk in model.codegen_stream_async("hi"):
            see("chunk", chunk)

    ways = (
        lambda: see("reply", *model.codegen("hi")),
        lambda: asyncio.run(call()),
        lambda: see("chunk", *model.codegen_stream("hi")),
        lambda: asyncio.run(stream()),
    )
    def echo(entry):
        return faults.Status(500, f"you sent {dict(entry.headers)!s}")

    def echo_in_stream(entry):
        return faults.ErrorEvent(message=f"you sent {dict(entry.headers)!s}")

    for fault in (
        None, faults.InvalidKey(), faults.Status(429), faults.Reset(), faults.MalformedBody(),
        faults.TruncatedStream(), faults.QuotaExhausted(), echo, echo_in_stream,
    ):
        server.default = fault
        for way in ways:
            try:
                way()
            except Exception as error:
                see_error(f"error of {name}, {fault}", error)
see("log", log.getvalue())
print("\\nSEEN", len(server.journal) > 200, len(log.getvalue()) > 1000, *sorted(seen))
for where, text in seen.items():
    if "canary" in text:
        at = text.index("canary")
        print("SHOWN in", where, text[max(0, at - 200) : at + 40])
"""
    output = run_script(script, *PLAIN, CANARY="sk-canary-environment-0123456789", OTHER="canary-header")
    assert "canary" not in output, [line for line in output.splitlines() if "canary" in line][:5]
    assert "\nSEEN True True chunk config error" in output


@pytest.mark.parametrize("provider", ["openai", "anthropic"])
def test_no_key_in_the_headers_of_an_error(
    server: Loopback, make_model: Callable[..., CodegenModel], provider: str
) -> None:
    """A key that a service repeats in its reply's headers is not in the error, nor in its pickle."""
    server.default = faults.Status(401, headers={"x-echo": KEY})
    with pytest.raises(AuthenticationError) as caught:
        make_model(provider).codegen("hi")
    error: Any = caught.value
    for shown in (vars(error), pickle.dumps(error), dict(error.response.headers)):
        assert KEY not in repr(shown)

"""A fork while other threads are in the middle of something: the child goes on all the same."""

import os

import pytest

from agentless.loopback import Loopback
from agentless.test.test_lifecycle import RunScript, run_script

__all__ = ["run_script"]

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")

SCRIPT = """
import itertools, os, signal, sys, threading, time
from agentless.config import read_config
from agentless.util.model_factory import ModelFactory

table = {"name": "gpt-4o", "provider": "openai", "api_key": "k", "base_url": os.environ["URL"]}
factory = ModelFactory(read_config({"models": {"m": table}}))
model = None
numbers = itertools.count()
stop = threading.Event()

def make():
    while not stop.is_set():
        factory.create_model(seed=next(numbers))

def quote():
    while not stop.is_set():
        factory.create_model().quote("word " * 5_000, temperature=next(numbers) % 100_000 / 100_000)

threads = [threading.Thread(target=work, daemon=True) for work in (make, quote, make, quote)]
for thread in threads:
    thread.start()
for trial in range(int(sys.argv[1])):
    time.sleep(0.003 * (trial % 5))  # so that forks meet the threads at different places
    child = os.fork()
    if child == 0:
        signal.alarm(20)  # ends a child that hangs
        factory.create_model(seed=-trial - 1).quote("hi", temperature=0.5)
        factory.create_model().quote("hi")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, trial
stop.set()
for thread in threads:
    thread.join()
print("ok")
"""


def test_fork_beside_create_model_and_quote(run_script: RunScript, server: Loopback) -> None:
    """Neither a factory's lock, a model's, the tokenizer's nor an import keeps the child."""
    script = SCRIPT.replace("int(sys.argv[1])", "10")
    assert run_script(script, "-W", "ignore::DeprecationWarning", URL=server.openai_url) == "ok\n"

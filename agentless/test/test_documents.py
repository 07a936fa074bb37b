"""What is written down works as written: README, config.toml, the demonstration, the specification's code."""

import ast
import asyncio
import inspect
import json
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
import tomli

from agentless import errors
from agentless.config import ModelSettings, load_config, read_config
from agentless.llm.codegen import OVERRIDES
from agentless.llm.trajectory import Trajectory, Usage
from agentless.loopback import Loopback, faults, shared
from agentless.settings import LoggingSettings
from agentless.util.model_factory import ModelFactory

ROOT = Path(__file__).parent.parent.parent
KEYS = ("OPENAI", "ANTHROPIC", "DEEPSEEK")


@dataclass(frozen=True)
class Block:
    """A fenced block of a document; `output` is what a `text` block right below a `python` block says."""

    language: str
    heading: str
    text: str
    output: str | None = None

    def __str__(self) -> str:
        return f"{self.language}: {self.heading}"


def blocks(document: Path, language: str) -> list[Block]:
    """The blocks of one language, in order."""
    found: list[Block] = []
    heading = ""
    heads, output = r"^#+ (?P<heading>[^\n]+)$", r"(?:\n\n^```text\n(?P<out>.*?)^```$)?"
    fences = heads + r"|^```(?P<language>\w+)\n(?P<text>.*?)^```$" + output
    for match in re.finditer(fences, document.read_text("utf-8"), re.MULTILINE | re.DOTALL):
        heading = match["heading"] or heading
        if match["language"] == language:
            found.append(Block(language, heading, match["text"], match["out"]))
    assert found, f"no {language} in {document}"
    return found


README = ROOT / "README.md"
SPECIFICATION = Path(__file__).parent / "specification_snippets.md"
SETTINGS = blocks(SPECIFICATION, "toml")
USAGE = blocks(SPECIFICATION, "python")


def run(block: Block, names: dict[str, Any]) -> str:
    """Run a block, awaiting where it awaits, as a notebook does; gives what it printed."""
    code: CodeType = compile(block.text, str(block), "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
    function = FunctionType(code, names)
    with redirect_stdout(StringIO()) as printed:
        if code.co_flags & inspect.CO_COROUTINE:
            asyncio.run(function())
        else:
            function()
    return printed.getvalue()


@pytest.fixture(autouse=True)
def _own_logger() -> Iterator[None]:
    """The `agentless` logger as it was: config.toml has a [logging] table."""
    logger = logging.getLogger("agentless")
    before = logger.level, logger.propagate, list(logger.handlers)
    yield
    level, logger.propagate, logger.handlers = before
    logger.setLevel(level)


@pytest.fixture
def _services(server: Loopback, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Every real service's usual variables point at the embedded one; the shared one starts afresh."""
    for name in KEYS:
        monkeypatch.setenv(f"{name}_API_KEY", "sk-canary-documents")
        url = server.anthropic_url if name == "ANTHROPIC" else server.openai_url
        monkeypatch.setenv(f"{name}_BASE_URL", url)
    shared().reset()
    yield
    shared().reset()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory: a folder with the repository's config.toml."""
    (tmp_path / "config.toml").write_bytes((ROOT / "config.toml").read_bytes())
    monkeypatch.chdir(tmp_path)
    return tmp_path


# README


@pytest.mark.usefixtures("_services", "folder")
def test_readme_runs_from_top_to_bottom() -> None:
    """The README's Python runs as written, in one session, and prints what the README says."""
    names: dict[str, Any] = {}
    checked = 0
    for block in blocks(README, "python"):
        printed = run(block, names)
        if block.output is not None:
            assert printed == block.output, block
            checked += 1
    assert checked >= 6


def test_readmes_first_result_takes_ten_lines() -> None:
    """A newcomer's first result needs at most ten lines."""
    assert len(blocks(README, "python")[0].text.splitlines()) <= 10


@pytest.mark.parametrize("block", blocks(README, "toml"), ids=str)
def test_readmes_settings_load(block: Block) -> None:
    """Each TOML block of the README is a config."""
    assert read_config(tomli.loads(block.text)).models


def rows(first: str) -> dict[str, tuple[str, str]]:
    """The README's table that begins with the key `first`: key -> (type, default)."""
    lines = README.read_text("utf-8").splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"| `{first}` |"))
    found = {}
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        key, kind, default, _ = (cell.strip().strip("`") for cell in line.strip("|").split("|", 3))
        found[key] = (kind, default)
    return found


def written(default: Any) -> str:
    """A default as the table writes it; nothing stands for none."""
    return "" if default in (None, (), {}) else json.dumps(default)


@pytest.mark.parametrize("first, kind", [("name", ModelSettings), ("level", LoggingSettings)])
def test_readmes_table_has_every_key(first: str, kind: type[ModelSettings | LoggingSettings]) -> None:
    """The README's tables have each key that can be set, with the default that it has."""
    documented = {key: default for key, (_, default) in rows(first).items()}
    fields = kind.model_fields.items()
    assert documented == {
        name: "required" if field.is_required() else written(field.default) for name, field in fields
    }


def test_readme_names_what_there_is() -> None:
    """Every override, every key of a result and every error class that exists is in the README."""
    text = README.read_text("utf-8")
    for name in {*OVERRIDES, *Trajectory.__annotations__, *Usage.__annotations__}:
        assert f"`{name}`" in text, name
    absent = {name for name in errors.__all__ if name not in text}
    # Not raised yet, or (Problem) a part of an error.
    assert absent <= {"Problem"}


# config.toml


def test_config_toml_creates_every_model(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each model of config.toml can be created once its key is set, and leaves out nothing."""
    for name in KEYS:
        monkeypatch.setenv(f"{name}_API_KEY", "sk-canary-documents")
    config = load_config(ROOT / "config.toml")
    assert config.default_model == "gpt-4"
    for name in config.models:
        model = ModelFactory(config).create_model(name)
        assert model.dropped_options == (), name
        assert bool(model.settings.tools) == name.startswith("claude")


def test_config_toml_explains_every_key() -> None:
    """config.toml names each key; those behind a hash sign are valid, and the defaults are the defaults."""
    text = (ROOT / "config.toml").read_text("utf-8")
    defaults = text.partition("\n[defaults]\n")[2].partition("\n[logging]\n")[0]
    uncommented = re.sub(r"(?m)^# (?=[a-z_]+ = )", "", defaults)
    shown = tomli.loads(uncommented)
    fields = ModelSettings.model_fields
    assert {*shown, "name", "provider"} == set(fields)
    read_config(
        {"models": {"m": {"name": "m", "provider": "openai", **shown, "tools": [], "tool_choice": "auto"}}}
    )
    for name, value in shown.items():
        if fields[name].default not in (None, {}, ()):
            assert value == fields[name].default, name


# The specification


@pytest.mark.parametrize("block", SETTINGS, ids=str)
def test_specifications_settings_load(block: Block) -> None:
    """Each TOML example of the specification loads as written, apart from its literal dots."""
    text = block.text.replace(", ... } }", " } }")
    assert read_config(tomli.loads(text)).models


def test_specifications_retries_load() -> None:
    """The specification's example of retry settings is a table of [defaults]."""
    [block] = [block for block in USAGE if "num_retries" in block.text]
    model = {"name": "m", "provider": "openai"}
    config = read_config({"defaults": tomli.loads(block.text), "models": {"m": model}})
    assert config.models["m"].retry_max_wait == 10


@pytest.mark.usefixtures("_services")
def test_specifications_usage_runs(server: Loopback, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The specification's usage runs as written, one block after the other, on its own config."""
    monkeypatch.chdir(tmp_path)
    basic, *models = (block.text.replace(", ... } }", " } }") for block in SETTINGS)
    short = '[models.gpt-4]\nname = "gpt-4"\nprovider = "openai"\n'
    assert short in basic
    (tmp_path / "config.toml").write_text(basic.replace(short, "") + "\n".join(models), "utf-8")
    names: dict[str, Any] = {}
    printed = {block.heading: run(block, names) for block in USAGE if "num_retries" not in block.text}
    reply = "This is the loopback's reply to: Hello, world!"
    assert printed["Basic Usage"] == ""
    assert "".join(printed["Streaming Usage"].splitlines()) == reply
    assert "".join(printed["Async Usage"].splitlines()) == reply
    assert names["response"][0]["response"] == "This is the loopback's reply to: Edit the file to fix the bug"
    assert len(server.journal) == 5


# The demonstration


def demonstrate(**environ: str) -> subprocess.CompletedProcess[str]:
    """Run examples/demo.py with these variables, and no keys but those among them."""
    kept = {name: value for name, value in os.environ.items() if not name.endswith(("_API_KEY", "_BASE_URL"))}
    kept.pop("MODEL", None)
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / "demo.py")]
    return subprocess.run(
        command, env={**kept, **environ}, capture_output=True, text=True, timeout=600, check=False
    )


def test_demo_runs_offline() -> None:
    """The demonstration runs without a key, in under 60 lines, silent on stderr, with books that agree."""
    done = demonstrate()
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) < 60
    assert max(map(len, done.stdout.splitlines())) <= 110
    assert "HTTP 429" in done.stdout
    [total] = re.findall(r"together +(\d+) +(\d+)", done.stdout)
    assert f"books say {total[0]} and {total[1]} tokens" in done.stdout


@pytest.mark.parametrize(
    "model, message",
    [("gpt-4", "OPENAI_API_KEY is not set"), ("gpt-99", "no model 'gpt-99'")],
)
def test_demo_says_what_is_missing(model: str, message: str) -> None:
    """Without its key, or with a name that is not there, the demonstration says so in one line."""
    done = demonstrate(MODEL=model)
    assert (done.returncode, done.stdout) == (1, "")
    assert message in done.stderr
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("model", ["gpt-4", "claude-3", "o3-mini"])
def test_demo_runs_on_a_service(server: Loopback, model: str) -> None:
    """With a key the demonstration runs on a service, and skips what cannot be provoked there."""
    done = demonstrate(
        MODEL=model,
        OPENAI_API_KEY="k-openai",
        OPENAI_BASE_URL=server.openai_url,
        ANTHROPIC_API_KEY="k-anthropic",
        ANTHROPIC_BASE_URL=server.anthropic_url,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "skipped: a real rate limit" in done.stdout
    assert len(server.journal) >= 8


def test_demo_tells_a_refusal_in_one_line(server: Loopback) -> None:
    """A failure of the service is one line, not a traceback, and without the key."""
    server.default = faults.InvalidKey()
    done = demonstrate(MODEL="gpt-4", OPENAI_API_KEY="k-canary-demo", OPENAI_BASE_URL=server.openai_url)
    assert done.returncode == 1
    assert done.stderr.startswith("demo: AuthenticationError: ")
    assert len(done.stderr.splitlines()) == 1
    assert "k-canary-demo" not in done.stderr + done.stdout

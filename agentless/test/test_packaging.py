"""Beside a checkout of the pipeline: what is imported from where, in real virtual environments.

The checkout is a stand-in of a few files in the pipeline's layout: no `__init__.py` anywhere, and modules of
the same names as ours.
"""

import subprocess
import sys
import sysconfig
import textwrap
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CHECKOUT = {
    "agentless/fl/localize.py": """
        from agentless.util.api_requests import num_tokens_from_messages
        from agentless.util.model import make_model
        from agentless.util.utils import load
        from agentless.repair.repair import repair
        from agentless.test.generate import generate
        if __name__ == "__main__":
            print(make_model.__module__, load(), repair(), generate())
    """,
    "agentless/repair/repair.py": "def repair(): return 'their repair'",
    "agentless/test/generate.py": "def generate(): return 'their tests'",
    "agentless/util/utils.py": "def load(): return 'their utils'",
    "agentless/util/model.py": "raise AssertionError('their model.py was imported')",
    "agentless/util/api_requests.py": "raise AssertionError('their api_requests.py was imported')",
    "get_repo_structure/structure.py": "",
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The distribution as it would be uploaded."""
    return _build("wheel", tmp_path_factory.mktemp("dist"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with the wheel in it."""
    return _environment(tmp_path_factory.mktemp("wheel"), wheel)


@pytest.fixture(scope="module")
def editable(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment with an editable install."""
    return _environment(tmp_path_factory.mktemp("editable"), _build("editable", tmp_path_factory.mktemp("d")))


@pytest.fixture(params=["installed", "editable"])
def python(request: pytest.FixtureRequest) -> Path:
    """The Python of each of the two environments."""
    chosen: Path = request.getfixturevalue(request.param)
    return chosen


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A stand-in for the pipeline's checkout."""
    for name, text in CHECKOUT.items():
        file = tmp_path / "checkout" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(textwrap.dedent(text))
    return tmp_path / "checkout"


def test_the_pipelines_command_runs_on_our_layer(python: Path, checkout: Path) -> None:
    """As its README says, the checkout is on PYTHONPATH, before site-packages; our model.py still wins."""
    out = _run(python, "agentless/fl/localize.py", at=checkout, path=checkout)
    assert out == "agentless.util.model their utils their repair their tests\n"


def test_the_checkout_may_be_the_working_directory(python: Path, checkout: Path) -> None:
    """`python -m agentless.fl.localize` in the checkout does the same without PYTHONPATH."""
    out = _run(python, "-m", "agentless.fl.localize", at=checkout)
    assert out == "agentless.util.model their utils their repair their tests\n"


def test_all_of_ours_is_importable(python: Path, checkout: Path) -> None:
    """Beside the checkout, our own modules are there, and come from where they were installed."""
    script = """
        import agentless, agentless.util.model, agentless.loopback, agentless.llm
        from agentless import load_config, ModelFactory
        for module in (agentless, agentless.util, agentless.util.model, agentless.llm, agentless.loopback):
            assert "checkout" not in module.__file__, module.__file__
    """
    assert _run(python, "-c", textwrap.dedent(script), at=checkout, path=checkout) == ""


def test_it_works_without_a_checkout(python: Path, tmp_path: Path) -> None:
    """The installed package makes a completion on the embedded provider, and says nothing else."""
    (tmp_path / "config.toml").write_text('[models.m]\nname = "gpt-4o"\nprovider = "loopback"\n')
    script = """
        from agentless import ModelFactory, load_config
        print(ModelFactory(load_config("config.toml")).create_model().codegen("hi")[0]["finish_reason"])
    """
    assert _run(python, "-c", textwrap.dedent(script), at=tmp_path) == "stop\n"


def test_what_is_in_the_wheel(wheel: Path) -> None:
    """Every module of ours and the mark that it is typed are in it; no tests: the pipeline has its own."""
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    ours = {
        str(file.relative_to(ROOT))
        for file in (ROOT / "agentless").rglob("*.py")
        if "test" not in file.relative_to(ROOT).parts
    }
    assert names == ours | {"agentless/py.typed"}


def test_the_pipelines_folders_have_no_init_of_ours() -> None:
    """A regular package `agentless.test` (or fl, repair) of ours would hide the pipeline's."""
    for name in ("test", "fl", "repair"):
        assert not (ROOT / "agentless" / name / "__init__.py").exists()


def _build(kind: str, folder: Path) -> Path:
    """Have hatchling build a wheel (in a process of its own: it goes by the working directory)."""
    call = f"import hatchling.build as b, sys; print(b.build_{kind}(sys.argv[1]))"
    built = _run(Path(sys.executable), "-c", call, str(folder), at=ROOT)
    return folder / built.split()[-1]


def _environment(folder: Path, wheel: Path) -> Path:
    """A fresh virtual environment with a wheel; what the wheel needs is lent from this environment."""
    venv.create(folder, symlinks=True)
    python = folder / "bin" / "python"
    site = next(folder.glob("lib/*/site-packages"))
    # A .pth file in a lent folder (such as our own editable install's) is not followed.
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    with zipfile.ZipFile(wheel) as archive:  # what pip does with a wheel of pure Python
        archive.extractall(site)
    return python


def _run(python: Path, *arguments: str, at: Path, path: Path | None = None) -> str:
    environment = {"PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    done = subprocess.run(
        [python, "-W", "error", *arguments],
        cwd=at,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return done.stdout

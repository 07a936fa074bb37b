"""The locks: they name all that is needed and nothing else, and no later release changes an installation.

The Makefile's own rules run on a made-up project, whose packages have newer releases that must not be taken.
What a package needs is read from the packages installed here: from those of requirements-oldest.lock where
this environment was made from it.
"""

import hashlib
import json
import os
import re
import shutil
import subprocess
import textwrap
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution, version
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import tomli
from packaging.markers import Marker, default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
PROJECT = tomli.loads((ROOT / "pyproject.toml").read_text("utf-8"))
LOCKS = ("requirements.lock", "requirements-dev.lock", "requirements-oldest.lock")
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
SYSTEMS = {
    "Linux": ("linux", "posix", "x86_64"),
    "Darwin": ("darwin", "posix", "arm64"),
    "Windows": ("win32", "nt", "AMD64"),
}
# For Python in a browser, which is none of these.
ELSEWHERE = {"httpx2-jsfetch"}


@dataclass(frozen=True)
class Pin:
    """A package of a lock: its version, where it is needed, and the hashes of its files."""

    version: Version
    marker: Marker | None
    hashes: frozenset[str]

    def holds(self, environment: dict[str, str]) -> bool:
        """Claims that the package is installed in such an environment."""
        return self.marker is None or self.marker.evaluate(environment)


def read(lock: str) -> dict[str, Pin]:
    """The packages of a lock, which has to be written in the one way that is expected here."""
    text = re.sub(r"(?m)^ *#.*\n", "", (ROOT / lock).read_text("utf-8")).replace("\\\n", " ")
    pins = {}
    for line in text.splitlines():
        found = re.fullmatch(r"([a-z0-9-]+)==(\S+)(?: ; (.+?))?((?: +--hash=sha256:[0-9a-f]{64})+) *", line)
        assert found, f"not a pinned package with hashes: {line}"
        name, pinned, marker, hashes = found.groups()
        assert name not in pins, f"{name} is there twice"
        pins[name] = Pin(Version(pinned), Marker(marker) if marker else None, frozenset(hashes.split()))
    return pins


def environments() -> Iterator[dict[str, str]]:
    """What markers are asked about, for each supported Python on each system."""
    for python, (system, (platform, os_name, machine)) in product(PYTHONS, SYSTEMS.items()):
        yield {
            **{name: str(value) for name, value in default_environment().items()},
            "python_version": python,
            "python_full_version": f"{python}.0",
            "implementation_version": f"{python}.0",
            "sys_platform": platform,
            "os_name": os_name,
            "platform_system": system,
            "platform_machine": machine,
        }


def requirements(name: str) -> list[Requirement]:
    """What an installed package needs; nothing is known of one that only other environments have."""
    try:
        return [Requirement(line) for line in distribution(name).requires or ()]
    except PackageNotFoundError:
        return []


def needed(roots: list[Requirement], environment: dict[str, str]) -> dict[str, list[Requirement]]:
    """All that is needed in an environment, extras and what they need included: name -> who asks for what."""
    asked: dict[str, list[Requirement]] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(root, "") for root in roots]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker and not requirement.marker.evaluate({**environment, "extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        asked.setdefault(name, []).append(requirement)
        for wanted in {"", *requirement.extras}:
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                waiting += [(needs, wanted) for needs in requirements(name)]
    return asked


def roots_of(lock: str) -> list[Requirement]:
    """What a lock is made for, by pyproject.toml."""
    extras, groups = PROJECT["project"]["optional-dependencies"], PROJECT["dependency-groups"]
    lines = PROJECT["project"]["dependencies"] + groups["build"]
    if lock != "requirements.lock":
        lines += extras["test"]
    lines += {"requirements-dev.lock": extras["lint"], "requirements-oldest.lock": groups["oldest"]}.get(
        lock, []
    )
    return [Requirement(line) for line in lines]


@pytest.mark.litellm
@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_has_all_that_is_needed_and_nothing_else(lock: str) -> None:
    """On each Python and system, what is needed is pinned to a version that all who ask for it take."""
    pins = read(lock)
    if version("litellm") != str(pins["litellm"].version):
        pytest.skip("this environment has another litellm than the lock: make test runs this in both")
    used = set()
    for environment in environments():
        for name, asking in needed(roots_of(lock), environment).items():
            assert name in pins, f"{asking[0]} is not in {lock}"
            assert pins[name].holds(environment), (name, environment)
            for requirement in asking:
                assert requirement.specifier.contains(pins[name].version, prereleases=True), requirement
            used.add(name)
    assert set(pins) - used <= ELSEWHERE


def test_the_locks_agree() -> None:
    """What running needs is, in the developer's lock, the same to the last hash; the oldest is the oldest."""
    running, developing, oldest = map(read, LOCKS)
    assert running.items() <= developing.items()
    [litellm] = [line for line in PROJECT["project"]["dependencies"] if line.startswith("litellm")]
    assert f">={oldest['litellm'].version}," in litellm
    assert developing["litellm"].version > oldest["litellm"].version
    build = set(PROJECT["dependency-groups"]["build"])
    assert build >= set(PROJECT["build-system"]["requires"])


# A made-up project and its packages

MADE_UP_PROJECT = """
[build-system]
requires = ["made-up-build"]
build-backend = "made_up_build"
[project]
name = "made-up-project"
version = "1.0"
"""
BACKEND = """
import zipfile
def build_editable(folder, *_):
    name = "made_up_project-1.0-py3-none-any.whl"
    with zipfile.ZipFile(folder + "/" + name, "w") as wheel:
        info = "made_up_project-1.0.dist-info"
        wheel.writestr(info + "/METADATA", "Metadata-Version: 2.1\\nName: made-up-project\\nVersion: 1.0\\n"
            "Requires-Dist: made-up-run\\n")
        wheel.writestr(info + "/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        wheel.writestr(info + "/RECORD", "")
    return name
"""
NEEDS = {
    "made-up-build": [],
    "made-up-run": ["made-up-leaf[fast]>=1"],
    "made-up-leaf": ['made-up-extra; extra == "fast"'],
    "made-up-extra": [],
    "made-up-test": ["made-up-leaf[fast]"],
}
DEMO = """
import importlib.metadata, json
print(json.dumps({each.name: each.version for each in importlib.metadata.distributions()}))
"""


def made_up_wheel(folder: Path, name: str, release: str) -> Path:
    """A wheel of one module; a newer backend than the lock's fails."""
    module = name.replace("-", "_")
    info = f"{module}-{release}.dist-info"
    metadata = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {release}", "Provides-Extra: fast"]
    metadata += [f"Requires-Dist: {each}" for each in NEEDS[name]]
    source = (
        (BACKEND if release == "1.0" else "raise SystemExit('too new')") if name == "made-up-build" else ""
    )
    files = {
        f"{module}.py": source,
        f"{info}/METADATA": "\n".join(metadata) + "\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in [*files, f"{info}/RECORD"])
    wheel = folder / f"{module}-{release}-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for file, text in files.items():
            archive.writestr(file, text)
    return wheel


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fresh clone of the made-up project, beside an index that has a newer release of everything."""
    folder = tmp_path_factory.mktemp("clone")
    index = folder / "index"
    index.mkdir()
    lines = {}
    for name in NEEDS:
        made_up_wheel(index, name, "2.0")
        wheel = made_up_wheel(index, name, "1.0")
        lines[name] = f"{name}==1.0 --hash=sha256:{hashlib.sha256(wheel.read_bytes()).hexdigest()}\n"
    (folder / "requirements-dev.lock").write_text("".join(lines.values()))
    del lines["made-up-test"]
    (folder / "requirements.lock").write_text("".join(lines.values()))
    (folder / "pyproject.toml").write_text(MADE_UP_PROJECT)
    (folder / "examples").mkdir()
    (folder / "examples" / "demo.py").write_text(textwrap.dedent(DEMO))
    shutil.copy(ROOT / "Makefile", folder)
    return folder


def make(place: Path, *targets: str) -> str:
    """What `make` prints there, with nothing in the environment and no index but the made-up one."""
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(place / "index"), "PIP_CONFIG_FILE": os.devnull}
    done = subprocess.run(
        ["make", *targets],  # noqa: S607  # from PATH, as anybody's
        cwd=place,
        env={"PATH": os.environ["PATH"], "HOME": str(place), **pip},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.skipif(shutil.which("make") is None, reason="there is no make here")
def test_no_later_release_is_taken(place: Path) -> None:
    """`make demo` brings what its lock has and no test tool, `make dev` the rest, in the locks' versions."""
    demonstrate: Any = json.loads(make(place, "demo").splitlines()[-1])
    installed = {name: found for name, found in demonstrate.items() if name.startswith("made-up")}
    running = dict.fromkeys([*NEEDS, "made-up-project"], "1.0")
    del running["made-up-test"]
    assert installed == running
    make(place, "dev")
    developing: Any = json.loads(make(place, "demo").splitlines()[-1])
    assert developing == {**demonstrate, "made-up-test": "1.0"}


def test_the_readme_installs_as_the_makefile_does() -> None:
    """The README's line for the tested versions has the Makefile's flags."""
    readme, makefile = ((ROOT / name).read_text("utf-8") for name in ("README.md", "Makefile"))
    [flags] = re.findall(r"(?m)^FROM_LOCK := (.+)$", makefile)
    assert f"pip install {flags} -r requirements.lock" in readme
    assert "pip install --no-deps --no-build-isolation ." in readme

"""What can be wrong with a store's file and its place: one clear error each, and nothing changed."""

import functools
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest

from agentless.errors import StoreError, StoreVersionError
from agentless.store import Finished, Run, Selection, schema
from agentless.store.connections import Connection
from agentless.store.files import check_folder, file_system_of
from agentless.store.sqlite import SQLiteStore
from agentless.test.stores import request_of, trajectory_of

ROOT = Path(__file__).parent.parent.parent
DATA = Path(__file__).parent / "data"
VERSION_1 = DATA / "store-1.db"
"""Written by the first version of the store, and never again; every later one has to open it."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where a store will be."""
    return tmp_path / "samples.db"


def fill(path: Path, count: int = 3, **options: Any) -> None:
    """A store with samples of one request, closed."""
    with SQLiteStore(path, **options) as store:
        attempt = store.begin(store.ask(request_of(), range(count)).result().claims).result()
        samples = {index: trajectory_of(f"text {index}") for index in range(count)}
        store.record(attempt, Finished(samples, cost=0.5)).result()


def texts(path: Path, **options: Any) -> list[str]:
    """The samples of that request."""
    with SQLiteStore(path, **options) as store:
        found = store.look(request_of(), range(1000)).result()
        return [found[index].trajectory["response"] for index in sorted(found)]


def other_sqlite(path: Path) -> None:
    """Another program's file."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE wallet (money INTEGER)")
    connection.commit()
    connection.close()


def newer(path: Path) -> None:
    """A store of a later version."""
    fill(path)
    connection = sqlite3.connect(path)
    connection.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION + 1}")
    connection.close()


def text_file(path: Path) -> None:
    """Something else altogether."""
    path.write_bytes(b"[store]\npath = 'samples.db'\n" * 100)


def torn(path: Path) -> None:
    """A file that ends in the midst of its first page."""
    fill(path)
    path.write_bytes(path.read_bytes()[:1000])


REFUSED: dict[str, tuple[Callable[[Path], None], str]] = {
    "another program's": (other_sqlite, "is another program's SQLite file; nothing was changed"),
    "newer": (newer, "was written by a newer version .its format is 2, this package knows those up to 1"),
    "text": (text_file, "is not a store, nor any SQLite file; nothing was changed"),
    "torn": (torn, "is damaged; nothing more is written|is not a store"),
}


@pytest.mark.parametrize("read_only", [False, True])
@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_store_is_refused_untouched(path: Path, name: str, read_only: bool) -> None:
    """The error's first line says which file and what about it; not a byte of it is another."""
    make, told = REFUSED[name]
    make(path)
    before = path.read_bytes()
    with pytest.raises(StoreError, match=told) as caught:
        SQLiteStore(path, read_only=read_only)
    assert str(caught.value).startswith(f"{path}: ")
    assert path.read_bytes() == before
    assert not path.with_name("samples.db-wal").exists()


def test_a_newer_store_says_which(path: Path) -> None:
    """The versions are attributes."""
    newer(path)
    with pytest.raises(StoreVersionError) as caught:
        SQLiteStore(path)
    assert (caught.value.found, caught.value.supported) == (schema.SCHEMA_VERSION + 1, schema.SCHEMA_VERSION)


def test_damage_is_told_and_verified(path: Path) -> None:
    """Where a page in the midst is damaged: an error when it is met, and `verify` finds it."""
    fill(path, 300)
    content = bytearray(path.read_bytes())
    for page in range(6, len(content) // 4096 - 1):
        content[page * 4096 : page * 4096 + 64] = b"\xa5" * 64
    path.write_bytes(content)
    with SQLiteStore(path) as store:
        with pytest.raises(StoreError, match=r"samples\.db: is damaged"):
            store.look(request_of(), range(300)).result()
        found: list[str] = []
        try:
            found = store.verify()
        except StoreError as error:
            found = [str(error)]
        assert found
    assert path.read_bytes() == bytes(content)


def test_verify_finds_what_sqlite_does_not(path: Path) -> None:
    """A request whose text was changed by hand, a sample that is cut, one without its attempt."""
    fill(path)
    connection = sqlite3.connect(path)
    connection.execute("UPDATE request SET request = replace(request, 'hello', 'bye')")
    connection.execute("UPDATE sample SET trajectory = '{\"resp' WHERE idx = 1")
    connection.execute("UPDATE sample SET attempt = 'none' WHERE idx = 2")
    connection.commit()
    connection.close()
    with SQLiteStore(path) as store:
        stray, request, sample = store.verify()
    assert stray == "a sample without its attempt: 1"
    assert request.endswith("its text has another key")
    assert "sample 1 of request" in sample


def test_an_empty_file_becomes_a_store(path: Path) -> None:
    """As `touch` or a crash in the first moment leaves it."""
    path.touch()
    fill(path)
    assert len(texts(path)) == 3


@pytest.mark.parametrize(
    "where, told",
    [
        ("", "is a folder; a store is a file"),
        ("no/samples.db", "there is no folder .*no; make it first"),
    ],
)
def test_a_place_where_no_store_can_be(tmp_path: Path, where: str, told: str) -> None:
    """Is told before anything is made."""
    with pytest.raises(StoreError, match=told):
        SQLiteStore(tmp_path / where)
    assert list(tmp_path.iterdir()) == []


MOUNTS = """\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
30 22 0:40 / /home rw,relatime shared:5 - nfs4 server:/home rw,vers=4.2
31 30 0:41 / /home/me/local\\040disk rw - xfs /dev/vdb rw
32 22 0:42 / /scratch rw - lustre mgs:/scratch rw
"""


@pytest.mark.parametrize(
    "folder, kind",
    [
        ("/work", "ext4"),
        ("/home/me", "nfs4"),
        ("/home/me/local disk/a", "xfs"),
        ("/homestead", "ext4"),
        ("/scratch", "lustre"),
    ],
)
def test_file_systems(folder: str, kind: str) -> None:
    """The innermost mount that the folder is under."""
    assert file_system_of(Path(folder), MOUNTS) == kind


def test_a_network_file_system_is_refused(path: Path) -> None:
    """SQLite would lose data there without a word."""
    mounts = f"30 22 0:40 / {path.parent} rw - nfs4 server:/home rw\n"
    with pytest.raises(StoreError, match=r"is on a network file system \(nfs4\)"):
        check_folder(path, mounts)
    check_folder(path)


def test_a_full_disk_keeps_what_is_there(path: Path) -> None:
    """The sample that could not be stored is in the error; what was stored is there; later ones come in."""
    fill(path)
    with SQLiteStore(path) as store:
        attempt = store.begin(store.ask(request_of(), [3, 4]).result().claims).result()
        connection = store._parts.writer._connection
        assert connection is not None
        ((pages,),) = connection.execute("PRAGMA page_count")
        connection.execute(f"PRAGMA max_page_count = {pages}")
        large = {3: trajectory_of("x" * 100_000)}
        others = [store.ask(request_of("other"), [number]) for number in range(20)]
        with pytest.raises(StoreError, match=r"samples\.db: the disk is full") as caught:
            store.record(attempt, Finished(large)).result()
        assert caught.value.samples == (large[3],)
        assert "Finished and not stored: 1" in caught.value.__notes__[0]
        for each in others:  # in the same commit, perhaps: none is spoilt by it
            each.exception()
        connection.execute("PRAGMA max_page_count = 1000000")
        store.record(attempt, Finished(large)).result()
        assert store.verify() == []
    assert len(texts(path)) == 4


def test_a_failure_at_the_first_write_keeps_nobody_out(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could not be opened is closed again, with its transaction."""
    fill(path)

    def fail(_: object) -> None:
        raise OSError(5, "Input/output error")

    with SQLiteStore(path, patience=1.0) as store, SQLiteStore(path, patience=1.0) as other:
        with monkeypatch.context() as patch:
            patch.setattr("agentless.store.process.bury_the_dead", fail)
            with pytest.raises(StoreError, match=r"samples\.db: Input/output error"):
                store.ask(request_of(), [7]).result()
        assert other.ask(request_of(), [7]).result().claims
        assert store.ask(request_of(), [8]).result().claims


def test_one_that_fails_spoils_no_other(path: Path) -> None:
    """Operations of one commit are each for itself."""
    with SQLiteStore(path) as store:
        writer = store._parts.writer
        done: list[Future[None]] = []

        def hold(db: Connection) -> None:
            # All of these go into the next commit.
            done.extend(writer.submit(functools.partial(write, number)) for number in range(10))

        def write(number: int, db: Connection) -> None:
            db.execute("INSERT INTO owner (id, slot, lease, until) VALUES (?, 1, 1, 1)", (str(number),))
            if number % 2:
                raise ValueError(number)

        writer.submit(hold).result()
        failed = [each.exception() is not None for each in done]
        assert failed == [False, True] * 5
        there = store._parts.reader.read(lambda db: db.execute("SELECT id FROM owner ORDER BY id"))
        assert there == [("0",), ("2",), ("4",), ("6",), ("8",)]


class Stranger:
    """A process without rights of its own: this one may be root, whom no right stops."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def run(self, code: str) -> str:
        """What it prints."""
        drop = "import os\nif not os.getuid():\n    os.setgid(65534)\n    os.setuid(65534)\n"
        done = subprocess.run(
            [sys.executable, "-c", IMPORTS + drop + code, self.folder / "samples.db"],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            cwd=ROOT,
        )
        assert done.stderr == ""
        return done.stdout


IMPORTS = """
import sys, encodings.idna, urllib.parse
from agentless.store.sqlite import SQLiteStore
from agentless.store.exchange import export_to
from agentless.errors import StoreError
from agentless.test.stores import request_of
"""


@pytest.fixture
def stranger() -> Iterator[Stranger]:
    """In a folder with a store that everyone may read and nobody may write."""
    folder = Path(tempfile.mkdtemp(dir="/tmp"))
    fill(folder / "samples.db")
    (folder / "samples.db-lock").unlink()
    (folder / "samples.db").chmod(0o444)
    folder.chmod(0o555)
    yield Stranger(folder)
    folder.chmod(0o755)
    shutil.rmtree(folder)


def test_a_read_only_folder_is_told(stranger: Stranger) -> None:
    """With what can be done about it."""
    code = "try:\n    SQLiteStore(sys.argv[1])\nexcept StoreError as error:\n    print(error)"
    told = stranger.run(code)
    assert told.startswith(f"{stranger.folder / 'samples.db'}: nothing can be written in its folder")
    assert 'open it with mode = "replay"' in told
    assert [each.name for each in stranger.folder.iterdir()] == ["samples.db"]


def test_a_published_store_is_replayed_where_nothing_can_be_written(stranger: Stranger) -> None:
    """Nothing is written beside it, either."""
    code = (
        "with SQLiteStore(sys.argv[1], read_only=True) as store:\n"
        "    print(len(store.look(request_of(), range(9)).result()), store.stats().samples)"
    )
    assert stranger.run(code) == "3 3\n"
    assert [each.name for each in stranger.folder.iterdir()] == ["samples.db"]


def test_replay_beside_a_writer(path: Path) -> None:
    """Samples of a run that is still going on are seen."""
    with SQLiteStore(path) as store, SQLiteStore(path, read_only=True) as replay:
        assert replay.look(request_of(), [0]).result() == {}
        attempt = store.begin(store.ask(request_of(), [0]).result().claims).result()
        store.record(attempt, Finished({0: trajectory_of("a")})).result()
        assert sorted(replay.look(request_of(), [0]).result()) == [0]
        replay.export_to(path.with_name("run.jsonl"))
        for refused in (replay.ask(request_of(), [1]), replay.begin(attempt.claims)):
            with pytest.raises(StoreError, match="is open for reading only"):
                refused.result()
        with pytest.raises(StoreError, match="is open for reading only"):
            replay.prune(Selection(everything=True))


# Versions


def test_todays_file_opens_for_ever(path: Path) -> None:
    """A store of version 1: every sample is a hit, in every later version."""
    shutil.copy(VERSION_1, path)
    assert texts(path) == ["text 0", "text 1", "text 2"]
    with SQLiteStore(path) as store:
        assert store.verify() == []
        assert [row["state"] for row in store.attempts().result()] == ["done", "failed"]
        assert Run(store).indexes(request_of(), 3) == (0, 1, 2)
        assert store.ask(request_of(), range(4)).result().claims[0].index == 3


def test_todays_file_is_replayed_for_ever(path: Path) -> None:
    """Read-only, too, as long as its tables are today's."""
    shutil.copy(VERSION_1, path)
    assert len(texts(path, read_only=True)) == 3


def test_todays_export_is_taken_in_for_ever(path: Path) -> None:
    """The same as JSON lines."""
    with SQLiteStore(path) as store:
        store.import_from(DATA / "store-1.jsonl")
        assert store.verify() == []
    assert texts(path) == ["text 0", "text 1", "text 2"]


@pytest.fixture
def _next_version(monkeypatch: pytest.MonkeyPatch) -> None:
    """A version 3 of the tables, with two steps to it."""
    steps = {
        1: ["ALTER TABLE sample ADD COLUMN note TEXT"],
        2: ["UPDATE sample SET note = 'old'", "CREATE INDEX sample_by_note ON sample (note)"],
    }
    monkeypatch.setattr(schema, "MIGRATIONS", steps)
    monkeypatch.setattr("agentless.store.connections.SCHEMA_VERSION", 3)
    monkeypatch.setattr("agentless.store.connections.steps", lambda found: schema.steps(found, 3))


@pytest.mark.usefixtures("_next_version")
def test_an_older_store_is_migrated(path: Path) -> None:
    """All steps in one transaction; it is a hit as before."""
    shutil.copy(VERSION_1, path)
    with pytest.raises(StoreVersionError, match=r"is of an older version .1, today's is 3.; open it once"):
        SQLiteStore(path, read_only=True)
    assert path.read_bytes() == VERSION_1.read_bytes()
    assert len(texts(path)) == 3
    connection = sqlite3.connect(path)
    assert connection.execute("SELECT DISTINCT note FROM sample").fetchall() == [("old",)]
    assert connection.execute("PRAGMA user_version").fetchall() == [(3,)]
    connection.close()


@pytest.mark.usefixtures("_next_version")
def test_a_migration_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The store is of its version as before, with all its samples."""
    monkeypatch.setitem(schema.MIGRATIONS, 2, ["UPDATE no_such_table SET a = 1"])
    shutil.copy(VERSION_1, path)
    with pytest.raises(StoreError, match=r"samples\.db: cannot be used: no such table"):
        SQLiteStore(path)
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA user_version").fetchall() == [(1,)]
    assert "note" not in [row[1] for row in connection.execute("PRAGMA table_info(sample)")]
    assert connection.execute("SELECT count(*) FROM sample").fetchall() == [(3,)]
    connection.close()


def test_every_version_has_its_step() -> None:
    """Whoever raises the version says how the one before becomes it."""
    assert sorted(schema.MIGRATIONS) == list(range(1, schema.SCHEMA_VERSION))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs Linux")  # noqa: PTH110
def test_an_export_onto_a_full_disk_is_told(path: Path) -> None:
    """What cannot be written is no export."""
    fill(path)
    with SQLiteStore(path) as store, Path("/dev/full").open("w", encoding="ascii") as full:
        with pytest.raises(StoreError, match=r"samples\.db: the disk is full"):
            store.export_to(_unbuffered(full))
        assert len(store.look(request_of(), range(9)).result()) == 3


def _unbuffered(file: Any) -> Any:
    class Unbuffered:
        def write(self, text: str) -> None:
            os.write(file.fileno(), text.encode())

    return Unbuffered()

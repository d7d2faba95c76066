"""The database of an MLflow store: a SQLite file, which is there whole or not at all, or a server.

MLflow makes its schema in place, in some sixty steps that are not one transaction: whoever is killed between them, runs out of disk, or comes
second while the first is at it, finds a database that no version of MLflow opens again. So it is made here under another name, in the same
folder, and renamed when it is whole. The file under that name is also the lock: the kernel's, so that it ends with its holder.

In a database server two machines that come first would both begin to make the schema: in PostgreSQL they take turns by a lock of the server's, which ends
with the connection. A server that does not answer MLflow would ask ten times, for two minutes: it is asked once here, before.
"""

import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import NullPool, create_engine, text
from sqlalchemy.engine import Connection, make_url
from sqlalchemy.exc import ArgumentError, OperationalError

from pipelines.errors import BadInput

SERVERS = ("postgresql:", "postgresql+", "mysql:", "mysql+", "mssql:", "mssql+")
ANSWERS_WITHIN, LOCK = 10, 0x7465787472617901  # seconds; a number that nobody else locks
BESIDE = ("-journal", "-wal", "-shm")  # what SQLite keeps beside a database while it is written


def file_of(uri: str) -> Path | None:
    """The file of a SQLite URI; None for every other store, and for a database in memory."""
    try:
        url = make_url(uri)
    except ArgumentError:
        return None
    if url.get_backend_name() != "sqlite" or not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        return None
    return Path(url.database).absolute()


def is_server(uri: str) -> bool:
    """Whether it is a database that a server keeps, and no MLflow server stands before it."""
    return uri.startswith(SERVERS)


def reach(uri: str) -> None:
    """Raise sqlalchemy's OperationalError for a database server that does not answer now or turns this user away, ModuleNotFoundError where its driver is missing."""
    with _connected(uri):
        pass


def may_pass(problem: Exception) -> bool:
    """Whether a database server is only away: it was not reached, or said that it starts, stops or has too many visitors. A wrong password stays wrong."""
    said = str(problem)
    refused = "FATAL:" in said or "Access denied" in said or "Unknown database" in said or "Login failed" in said  # PostgreSQL's word for all of these, MySQL's, SQL Server's
    return isinstance(problem, OperationalError) and (not refused or any(words in said for words in ("starting up", "shutting down", "too many", "remaining connection")))


@contextmanager
def one_at_a_time(uri: str) -> Iterator[None]:
    """Alone with a PostgreSQL server, of all that ask so; with every other store at once. Raises as `reach` does."""
    if not uri.startswith("postgresql"):
        yield
        return
    with _connected(uri) as connection:
        connection.execute(text("SELECT pg_advisory_lock(:lock)"), {"lock": LOCK})
        yield


@contextmanager
def _connected(uri: str) -> Iterator[Connection]:
    options = {"connect_timeout": ANSWERS_WITHIN} if uri.startswith(("postgresql", "mysql")) else {}
    engine = create_engine(uri, connect_args=options, poolclass=NullPool)
    with engine.connect() as connection:
        yield connection


def is_new(file: Path) -> bool:
    """Whether there is nothing at `file`, or an empty file, as a process leaves it that was killed right at the start."""
    return not file.exists() or (file.is_file() and file.stat().st_size == 0)


def make(file: Path, fill: Callable[[str], None]) -> None:
    """Make the database unless it is there. Whoever comes while another makes it waits for that one.

    Args:
        fill: makes the schema at the URI that it is given, and closes every connection to it.

    Raises:
        OSError: the folder cannot be written to.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    aside = file.with_name(f"{file.name}.making")
    while is_new(file):
        with open(aside, "ab") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _is_at(lock.fileno(), aside):
                continue  # it became the database, or was removed, while this process waited
            try:
                if is_new(file):
                    _fill(file, aside, lock.fileno(), fill)
            finally:
                if _is_at(lock.fileno(), aside):
                    _remove(aside)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False


def _fill(file: Path, aside: Path, handle: int, fill: Callable[[str], None]) -> None:
    os.ftruncate(handle, 0)  # what a killed process left
    for ending in BESIDE:  # SQLite would roll the new database back by the journal of an old one that was deleted
        for path in (aside, file):
            Path(f"{path}{ending}").unlink(missing_ok=True)
    fill(f"sqlite:///{aside}")
    os.rename(aside, file)
    folder = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _remove(aside: Path) -> None:
    for ending in ("", *BESIDE):
        Path(f"{aside}{ending}").unlink(missing_ok=True)


def check(file: Path, tables: set[str], revision: str) -> None:
    """Refuse what is not a whole database of the installed MLflow, before MLflow touches it.

    Args:
        tables: those that it must have.
        revision: of its schema.

    Raises:
        BadInput: half a schema, another version's, another program's database, or no database; the sentence says what to do.
        OSError, sqlite3.Error: the file cannot be read now.
    """
    if is_new(file):
        raise FileNotFoundError(f"there is no {file}")
    try:
        found, version, runs = _contents(file)
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError as problem:
        raise BadInput(f"{file}: expected the SQLite database of an MLflow store, found a file that is none, or a damaged one ({problem}): move it away, or set "
                       "MLFLOW_TRACKING_URI to another store") from None
    if tables <= found and version == revision:
        return
    if found and not found & tables:
        raise BadInput(f"{file}: expected the SQLite database of an MLflow store, found another program's (its tables: "
                       f"{', '.join(sorted(found)[:3])}): set MLFLOW_TRACKING_URI to another store")
    if version and version != revision:
        raise BadInput(f"{file}: expected a store of the installed version of MLflow (schema {revision}), found schema {version}: copy the file, "
                       f"then run `mlflow db upgrade sqlite:///{file}`, or set MLFLOW_TRACKING_URI to another store")
    lacking = f"{len(tables - found)} of {len(tables)} tables are missing" if tables - found else "its version is missing"
    remedy = f"it holds {runs} runs: bring back a copy of it, or move it away" if runs else f"it holds no run: delete {file}"
    raise BadInput(f"{file}: expected a whole MLflow store, found one whose making was interrupted ({lacking}); {remedy}, and repeat the command")


def _contents(file: Path) -> tuple[set[str], str, int]:
    """The tables, the version of the schema (empty if there is none), and the number of runs."""
    with closing(sqlite3.connect(file, timeout=20)) as database:
        tables = {name for name, in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' AND name NOT LIKE 'sqlite_%'")}
        versions = database.execute("SELECT version_num FROM alembic_version").fetchall() if "alembic_version" in tables else []
        runs = database.execute("SELECT count(*) FROM runs").fetchone()[0] if "runs" in tables else 0
    return tables - {"alembic_version"}, versions[0][0] if versions else "", runs

"""The birth of a store: killed at any point, or made by several at once, it is whole in the end; what was broken earlier is explained."""

import os
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy
from mlflow import MlflowClient
from mlflow.store.tracking.dbmodels.initial_models import Base

from pipelines import database
from pipelines.errors import BadInput
from pipelines.tracking import client_of, prepare_store, start_run

PREPARE = """
import os, signal, sys
import sqlalchemy
from pipelines.tracking import prepare_store

statements = 0

def kill_at(*_):
    global statements
    statements += 1
    if statements == int(sys.argv[2]):
        os.kill(os.getpid(), signal.SIGKILL)

sqlalchemy.event.listen(sqlalchemy.Engine, "after_cursor_execute", kill_at)
print(prepare_store(sys.argv[1])[1], statements)
"""


def preparing(folder: Path, kill_at: int = 0) -> subprocess.Popen:
    """A process that prepares the store in the folder, and is killed after so many statements of SQL."""
    command = [sys.executable, "-c", PREPARE, f"sqlite:///{folder / 'mlflow.db'}", str(kill_at)]
    return subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}, stdout=subprocess.PIPE, text=True)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_store_whose_making_is_killed_is_made_by_the_next_command_or_by_several_at_once(tmp_path):
    for statement in (60, 250):  # among the first tables, among the migrations
        process = preparing(tmp_path, statement)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        assert not (tmp_path / "mlflow.db").exists()
    made = [process.communicate()[0].split() for process in [preparing(tmp_path), preparing(tmp_path), preparing(tmp_path)]]
    assert [experiment for experiment, _ in made] == ["1", "1", "1"]
    assert sorted(int(statements) > 300 for _, statements in made) == [False, False, True]  # one made it, and the kills were within
    assert names(tmp_path) == ["mlflow.db"]
    assert [found.name for found in MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}").search_experiments()] == ["textray", "Default"]


def test_a_making_that_fails_leaves_nothing_and_the_sentence(tmp_path, monkeypatch):
    def full(uri: str, experiment: str, location: str) -> None:
        Path(uri.removeprefix("sqlite:///")).write_bytes(b"half")
        Path(f"{uri.removeprefix('sqlite:///')}-journal").write_bytes(b"half")
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr("pipelines.tracking._make_schema", full)
    with pytest.raises(BadInput, match=r"the MLflow store sqlite:.* cannot be used \(database or disk is full\)"):
        prepare_store(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert names(tmp_path) == []


@pytest.fixture
def own(store, tmp_path) -> Path:
    """A whole store of this test alone."""
    return Path(shutil.copy(store.removeprefix("sqlite:///"), tmp_path / "mlflow.db"))


def test_an_empty_file_and_an_old_journal_are_no_store(tmp_path, own, monkeypatch):
    """A process killed at the very start leaves an empty file; who deletes a database may leave its journal, which SQLite would apply to the next."""
    monkeypatch.setattr("pipelines.tracking._make_schema", lambda uri, experiment, location: shutil.copy(own, uri.removeprefix("sqlite:///")))
    new = tmp_path / "new.db"
    new.touch()
    Path(f"{new}-journal").write_bytes(b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7" + bytes(504))
    prepare_store(f"sqlite:///{new}")
    assert names(tmp_path) == ["mlflow.db", "new.db"]


def change(file: Path, *statements: str) -> None:
    with closing(sqlite3.connect(file)) as found, found:
        for statement in statements:
            found.execute(statement)


def test_half_a_store_of_an_earlier_version_is_named_with_what_to_delete(tmp_path):
    file = tmp_path / "mlflow.db"
    engine = sqlalchemy.create_engine(f"sqlite:///{file}")
    Base.metadata.create_all(engine)  # as MLflow begins: the tables of its first version, then migrations
    engine.dispose()
    before = file.read_bytes()
    with pytest.raises(BadInput, match=rf"found one whose making was interrupted \(\d+ of \d+ tables are missing\); it holds no run: delete {file}, "
                                       "and repeat the command"):
        prepare_store(f"sqlite:///{file}")
    assert file.read_bytes() == before


@pytest.mark.parametrize("statement, sentence", [
    ("DROP TABLE metrics", "making was interrupted .1 of .* tables are missing.; it holds no run: delete "),
    ("DELETE FROM alembic_version", "making was interrupted .its version is missing.; it holds no run: delete "),
    ("DROP TABLE alembic_version", "making was interrupted .its version is missing.; it holds no run: delete "),
    ("UPDATE alembic_version SET version_num = 'abc'", r"found schema abc: copy the file, then run `mlflow db upgrade sqlite:///.*mlflow\.db`"),
])
def test_a_store_that_is_not_whole_is_refused_before_mlflow_touches_it(own, statement, sentence):
    change(own, "DELETE FROM runs", statement)
    for use in (prepare_store, client_of):
        with pytest.raises(BadInput, match=sentence):
            use(f"sqlite:///{own}")


def test_a_broken_store_with_runs_is_not_to_be_deleted(own):
    start_run("precious", uri=f"sqlite:///{own}")
    change(own, "DROP TABLE tags")
    with pytest.raises(BadInput, match=r"it holds \d+ runs: bring back a copy of it, or move it away, and repeat the command"):
        prepare_store(f"sqlite:///{own}")


def test_other_files_are_left_alone(tmp_path):
    (tmp_path / "notes.db").write_text("no database at all, but notes " * 100, encoding="utf-8")
    with pytest.raises(BadInput, match="found a file that is none, or a damaged one"):
        prepare_store(f"sqlite:///{tmp_path / 'notes.db'}")
    change(tmp_path / "music.db", "CREATE TABLE albums (title TEXT)")
    with pytest.raises(BadInput, match=r"found another program's \(its tables: albums\)"):
        prepare_store(f"sqlite:///{tmp_path / 'music.db'}")
    with pytest.raises(BadInput, match="cannot be used .unable to open database file"):
        prepare_store(f"sqlite:///{tmp_path}")


def test_a_store_that_has_gone_is_not_made_anew_by_whoever_writes_to_it(tmp_path):
    with pytest.raises(FileNotFoundError):
        client_of(f"sqlite:///{tmp_path / 'mlflow.db'}")
    assert names(tmp_path) == []


@pytest.mark.parametrize("uri, file", [("sqlite:////a/b.db", "/a/b.db"), ("sqlite:///:memory:", None), ("sqlite://", None), ("http://host:5000", None),
                                       ("sqlite+pysqlite:////a/b.db?timeout=3", "/a/b.db"), ("postgresql://host/db", None), ("mlruns", None)])
def test_only_a_file_of_sqlite_is_made_here(uri, file):
    assert database.file_of(uri) == (file and Path(file))

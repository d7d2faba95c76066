"""The rules that keep the house a house: doors, rooms and the ground, where imports point, what may be heavy, what every command offers."""

import ast
import graphlib
import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from pipelines.cli import COMMANDS, MEANT, main

ROOT = Path(__file__).parents[1]
FOLDERS = ("models", "pipelines", "tuning", "textray")
MAY_IMPORT = {"models": {"torch", "numpy", "models"}, "pipelines": {"models", "pipelines"}, "tuning": {"models", "pipelines", "tuning"}, "textray": set(FOLDERS)}


def module_of(file: Path) -> str:
    """pipelines/corpus/storage.py -> pipelines.corpus.storage; a folder's __init__.py -> the folder's name."""
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


FILES = {module_of(file): file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*.py"))}
DOORS = {module for module, _ in COMMANDS.values()} | {"pipelines.cli"}
GROUND = {f"pipelines.{name}" for name in ("errors", "arguments", "state", "checksum", "progress", "cluster", "handles", "tracking", "database")}
ROOMS = {f"pipelines.{file.parent.name}" for file in (ROOT / "pipelines").glob("*/__init__.py")}


def imports_of(file: Path) -> set[str]:
    """What a file imports anywhere but in its `if __name__ == "__main__"`: modules by their whole name, ours as far as a file goes."""
    found, tree = set(), ast.parse(file.read_text(encoding="utf-8"))
    started = [node for node in tree.body if isinstance(node, ast.If) and "__name__" in ast.unparse(node.test)]
    own = {id(inner) for node in started for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import) and id(node) not in own:
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and id(node) not in own:
            assert node.level == 0, f"{file}: relative import"
            whole = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in FILES else node.module for name in whole}
    return found


IMPORTS = {module: imports_of(file) for module, file in FILES.items()}


def room_of(module: str) -> str:
    """The room that a module of pipelines stands in; itself where it stands in none."""
    return ".".join(module.split(".")[:2])


@pytest.mark.parametrize("folder", FOLDERS)
def test_imports_point_one_way(folder):
    for module, imported in IMPORTS.items():
        if module.split(".")[0] == folder:
            ours = {name.split(".")[0] for name in imported} & set(FOLDERS)
            assert ours <= MAY_IMPORT[folder], f"{module} imports {ours}"


def test_models_need_nothing_but_torch_and_numpy():
    for module, imported in IMPORTS.items():
        if module.split(".")[0] == "models":
            foreign = {name.split(".")[0] for name in imported} - sys.stdlib_module_names
            assert foreign <= MAY_IMPORT["models"], f"{module} imports {foreign}"


def test_there_are_doors_and_rooms_and_the_ground_and_nothing_else():
    for module, file in FILES.items():
        if file.parent == ROOT / "pipelines" and module != "pipelines":
            assert (module in DOORS) + (module in GROUND) == 1, f"{file}: a command of cli.py, or one of the ground, or it belongs into a room"
    for room in ROOMS:
        tree = ast.parse(FILES[room].read_text(encoding="utf-8"))
        assert ast.get_docstring(tree) and len(tree.body) == 1, f"{room}: its __init__.py says what it is for, in a sentence, and does nothing"


def test_nothing_opens_a_door_but_the_command_and_the_demo():
    for module, imported in IMPORTS.items():
        if module not in ("pipelines.cli", "pipelines.demo", "pipelines.adapt", "pipelines.completion"):
            assert not imported & DOORS, f"{module} imports {imported & DOORS}: what it needs of them belongs into a room"


def test_the_ground_uses_nobody():
    for module in GROUND:
        assert {name for name in IMPORTS[module] if name.split(".")[0] in FOLDERS} <= GROUND


def circle_in(imports: dict[str, set[str]]) -> list[str]:
    """Modules of which each imports the next, the first and the last being one; none where there is no circle."""
    try:
        graphlib.TopologicalSorter(imports).prepare()
    except graphlib.CycleError as found:
        return found.args[1]
    return []


def test_no_imports_run_in_circles():
    between = {}
    for module, imported in IMPORTS.items():
        between.setdefault(room_of(module), set()).update({room_of(name) for name in imported if name in FILES} - {room_of(module)})
    assert circle_in(between) == [] and circle_in(IMPORTS) == []
    assert set(circle_in({**IMPORTS, "pipelines.errors": {"pipelines.cli"}})) >= {"pipelines.errors", "pipelines.cli"}  # it would be noticed


def imported_at_once(module: str) -> set[str]:
    """All modules that importing one of ours imports, ours and the packages of others; not what functions import when they are called."""
    found, wanted = set(), [module]
    while wanted:
        name = wanted.pop()
        if name not in found and name in FILES:
            tree = ast.parse(FILES[name].read_text(encoding="utf-8"))
            tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
            for node in tree.body:
                whole = {alias.name for alias in node.names} if isinstance(node, ast.Import) else {f"{node.module}.{alias.name}" for alias in node.names}
                wanted += [each if each in FILES or isinstance(node, ast.Import) else node.module for each in whole]
        found.add(name)
    return found


@pytest.mark.parametrize("module", ["pipelines.training.worker", "pipelines.feed.datasource"])
def test_what_every_process_of_a_run_imports_is_without_mlflow(module):
    """It would take each of them seconds; the driver alone speaks with it."""
    found = imported_at_once(module)
    assert module in found and len(found) > 10
    assert not {name for name in found if name.split(".")[0] in ("mlflow", "sqlalchemy")}


def test_a_list_of_runs_is_there_at_once():
    found = {name.split(".")[0] for name in imported_at_once("pipelines.runs")}
    assert "pydantic" in found and not found & {"torch", "ray", "mlflow", "models"}


@pytest.mark.parametrize("module", ["pipelines.pretrain", "pipelines.finetune", "pipelines.self_train", "tuning.sweep"])
def test_a_slip_in_a_recipe_is_answered_at_once(module):
    """Commands that take a recipe look at it before they import what takes seconds."""
    found = {name.split(".")[0] for name in imported_at_once(module)}
    assert "pydantic" in found and not found & {"torch", "ray", "mlflow"}


def test_a_file_is_named_for_what_it_is_in_its_room():
    for module in FILES:
        *_, folder, name = ["", *module.split(".")]
        assert not folder or folder not in name, f"{module} repeats {folder}"


def test_the_map_shows_every_door_and_every_room():
    page = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    drawn = page.split("```")[1]
    for module in DOORS | GROUND:
        assert re.search(rf"\b{module.split('.')[-1]}\b", drawn), f"{module} is missing on the map"
    for room in ROOMS:
        name = room.split(".")[-1]
        assert f"{name}/" in drawn and f"| `{name}/` |" in page, f"{room} is missing on the map"


def test_tests_stand_where_what_they_test_stands():
    for file in (ROOT / "tests").rglob("test_*.py"):
        folder = file.parent.relative_to(ROOT / "tests")
        assert folder.name == "real" or (ROOT / folder).is_dir(), f"{file}: there is no folder {folder}"


def opened_as_text(file: Path) -> list[ast.Call]:
    """The calls of open, read_text and write_text that read or write text, and do not say how it is encoded."""
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call) or any(keyword.arg == "encoding" for keyword in node.keywords):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        binary = any("b" in str(each.value) for each in node.args[1:] if isinstance(each, ast.Constant))
        method = len(node.args) == {"read_text": 0, "write_text": 1}.get(name)  # of a path; our own functions take more
        if method or (name == "open" and isinstance(node.func, ast.Name) and not binary):
            found.append(node)
    return found


def test_files_are_the_same_in_every_locale():
    folders = (*FOLDERS, "tests", "benchmarks")
    found = [f"{file}:{call.lineno}" for folder in folders for file in (ROOT / folder).rglob("*.py") for call in opened_as_text(file)]
    assert found == []  # what is not said is the locale's encoding


def test_a_command_reads_and_writes_utf8_in_every_locale(tmp_path):
    (tmp_path / "café.jpg").write_bytes(b"picture")
    (tmp_path / "labels.tsv").write_text("café.jpg\tক\n", encoding="utf-8")
    (tmp_path / "command.py").write_text("""
from pipelines import cli, doctor
from pipelines.ingestion.sources.opening import open_sources
doctor.main = lambda argv: print(*[row for source in open_sources(["."]) for piece in source.pieces(9) for row in piece.read()])
raise SystemExit(cli.run("doctor"))
""", encoding="utf-8")
    environment = os.environ | {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0", "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "command.py"], cwd=tmp_path, env=environment, capture_output=True)
    [shown] = done.stdout.decode("utf-8").splitlines()
    assert "café.jpg" in shown and "text='ক'" in shown and "problem=None" in shown, done.stderr


def test_tensors_are_read_on_machines_without_the_device_that_they_lay_on():
    for folder in (*FOLDERS, "benchmarks"):
        for file in (ROOT / folder).rglob("*.py"):
            calls = [node for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
            loads = [call for call in calls if ast.unparse(call.func) in ("torch.load", "torch.jit.load")]
            assert all(any(keyword.arg == "map_location" for keyword in call.keywords) for call in loads), file


def test_no_file_is_long():
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            assert len(file.read_text(encoding="utf-8").splitlines()) <= 420, file


def test_what_is_told_on_the_way_goes_through_one_place():
    """`--quiet` ends there. Errors go to stderr directly: of the command line, of a gate that is not reached, of an image that cannot be read."""
    may = {"pipelines.progress", "pipelines.cli", "pipelines.evaluate", "pipelines.predict"}
    telling = {module for module, file in FILES.items() for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
               if isinstance(node, ast.Attribute) and ast.unparse(node) == "sys.stderr"}
    assert telling == may


def test_help_imports_nothing_heavy():
    code = "import sys; from pipelines.cli import main; main(['--help']); print(sorted({'torch', 'ray', 'mlflow', 'cv2', 'pandas'} & set(sys.modules)))"
    shown = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert shown.splitlines()[-1] == "[]"
    assert all(name in shown for name in COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_explains_itself_with_an_example(name, capsys):
    with pytest.raises(SystemExit) as ended:
        main([name, "--help"])
    shown = capsys.readouterr().out
    assert ended.value.code == 0
    assert shown.startswith(f"usage: textray {name}")
    assert f"textray {name}" in shown.split("example", 1)[1]


def test_a_run_without_the_data_says_loudly_what_it_left_out(tmp_path):
    (tmp_path / "test_both.py").write_text("def test_parity(parity_data): pass\ndef test_one(real_data): pass\ndef test_two(real_data): pass\n",
                                           encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "tests"), "TEXTRAY_PARITY": "/nowhere/parity", "TEXTRAY_DATA": "/nowhere/data"}
    command = [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", "test_both.py"]
    shown = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True).stdout
    assert re.search(r"!+ 3 TESTS DID NOT RUN !+\n", shown), shown
    assert "1 tests: not at hand: the records of the reference implementations, at /nowhere/parity; set TEXTRAY_PARITY to the folder" in shown
    assert "2 tests: not at hand: the real images, at /nowhere/data; set TEXTRAY_DATA to the folder that holds words/" in shown


@pytest.mark.parametrize("typed, meant", [("train", "finetune"), ("read", "predict"), ("list", "runs"), ("evalute", "evaluate"), ("ingets", "ingest")])
def test_what_is_meant_is_named(typed, meant, capsys):
    assert main([typed]) == 2
    assert capsys.readouterr().err == f"textray: error: there is no command {typed!r}: did you mean {meant!r}?\n"


def test_help_is_a_word_too(capsys):
    assert main(["help"]) == 0
    assert capsys.readouterr().out.startswith("usage: textray COMMAND")
    with pytest.raises(SystemExit) as ended:
        main(["help", "export"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("usage: textray export")
    assert main(["help", "trian"]) == 2


def test_what_other_tools_call_a_command_is_none_of_ours_and_leads_to_one():
    assert not MEANT.keys() & COMMANDS.keys() and set(MEANT.values()) <= COMMANDS.keys()


def test_an_unknown_command_names_the_nearest(capsys):
    assert main(["evalute"]) == 2
    assert capsys.readouterr().err == "textray: error: there is no command 'evalute': did you mean 'evaluate'?\n"


def test_bad_input_is_one_sentence_and_status_2(capsys, tmp_path):
    assert main(["describe", str(tmp_path / "nowhere")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1 and lines[0].startswith("textray: error: ") and "nowhere" in lines[0]


def test_doctor_lists_what_is_here(capsys):
    assert main(["doctor"]) == 0
    shown = capsys.readouterr().out
    assert all(word in shown for word in ("Python", "torch", "CPUs", "GPUs", "memory", "/dev/shm", "Ray", "MLflow"))


@pytest.mark.parametrize("file", sorted((ROOT / "recipes").glob("*.yaml")), ids=lambda file: file.name)
def test_every_recipe_of_the_repository_is_valid(file):
    from pipelines.training.recipe import load_recipe
    recipe = load_recipe(file)
    assert recipe.name == file.stem.removeprefix("demo_")


def test_no_two_modules_of_the_tests_have_one_name():
    """pytest imports them by their names alone: of two with one name the second is not collected."""
    names = Counter(file.stem for file in (ROOT / "tests").rglob("*.py") if file.stem != "conftest")
    assert [name for name, count in names.items() if count > 1] == []

"""What is seen of a run while it goes on: a line for each number, a warning once, and a report that is whole and never in the way."""

from pathlib import Path

from mlflow.entities import Metric

from pipelines.progress import quietly
from pipelines.training.journal import Journal
from pipelines.training.recipe import parse_recipe
from pipelines.training.runs import RunFolder
from pipelines.training.watching import Progress, clock

RECIPE = parse_recipe({"name": "r", "recognizer": {"name": "crnn_tiny"}, "objective": {"name": "ccr"}, "training": {"steps": 160},
                       "data": {"labeled": {"corpus": "a", "batch_size": 2}, "unlabeled": {"corpus": "b", "batch_size": 2}}})


class Log:
    """In the place of a run's entry in MLflow."""

    def __init__(self) -> None:
        self.points: list[Metric] = []

    def log(self, points: list[Metric]) -> None:
        self.points += points


def journal(folder: Path, steps: range) -> None:
    written = Journal(RunFolder(folder).progress)
    for step in steps:
        written.append({"step": step, "time": 100.0 + step, "loss": 2.0, "kept_fraction": 0.0, "consistency_position_1": 0.5,
                        "unlabeled_weak_agreement": 0.5, "unlabeled_strong_similarity": 0.25})


def test_a_run_that_goes_on_is_shown_whole_and_its_warning_is_said_once(tmp_path, capsys):
    journal(tmp_path, range(20, 80, 20))  # before it was killed
    log = Log()
    with Progress(RunFolder(tmp_path), RECIPE, log, said=["3 validation words are few"]):
        journal(tmp_path, range(80, 180, 20))
    shown = capsys.readouterr().err.splitlines()
    assert [line for line in shown if "step 100/160" in line] == [
        "step 100/160  loss 2  kept fraction 0  unlabeled strong similarity 0.25  left 00:01:00"]
    [warning] = [line for line in shown if "warning" in line]
    assert warning.startswith("textray: warning: no unlabeled image was kept in the 5 steps logged last (steps 20 to 100)")
    assert len(log.points) == 5 * 5
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Step 160 of 160" in page and ">step 20<" in page and page.count("no unlabeled image was kept") == 1 and "3 validation words are few" in page


def test_numbers_behind_the_step_at_which_a_killed_run_went_on_count_no_more(tmp_path, capsys):
    """Else a loss that fell and falls anew from the checkpoint looks like one that does not fall."""
    written = Journal(RunFolder(tmp_path).progress)
    for step, loss in [*((step, 30.0 - step / 5) for step in range(10, 150, 10)), *((step, 30.0 - step / 5) for step in range(10, 60, 10))]:
        written.append({"step": step, "time": 100.0 + step, "loss": loss})
    with Progress(RunFolder(tmp_path), RECIPE, Log()) as progress:
        assert [line["step"] for line in progress._lines] == [10, 20, 30, 40, 50]
    assert "does not fall" not in capsys.readouterr().err


def test_a_run_may_last_longer_than_a_day():
    assert [clock(seconds) for seconds in (0.9, 60, 86399, 86400, 51 * 3600 + 1207.5)] == ["00:00:00", "00:01:00", "23:59:59", "24:00:00", "51:20:07"]


def test_a_report_that_cannot_be_written_costs_one_warning(tmp_path, capsys):
    (tmp_path / "report.html" / "in the way").mkdir(parents=True)
    with Progress(RunFolder(tmp_path), RECIPE, Log()):
        journal(tmp_path, range(20, 60, 20))
    [warning] = [line for line in capsys.readouterr().err.splitlines() if "warning" in line]
    assert warning.startswith(f"textray: warning: {tmp_path}/report.html: the report of the run was not written for a while (")
    assert not [file for file in tmp_path.rglob("*") if file.suffix == ".tmp"]


def test_examples_of_pseudo_labels_that_are_torn_are_left_out(tmp_path, capsys):
    (tmp_path / "pseudo_labels.json").write_bytes(b'{"step": 4')
    with quietly(), Progress(RunFolder(tmp_path), RECIPE, Log()):
        journal(tmp_path, range(20, 40, 20))
    assert capsys.readouterr().err == "" and "Step 20 of 160" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_run_whose_workers_outlived_their_command_gets_its_report_without_a_new_number(tmp_path):
    journal(tmp_path, range(20, 180, 20))
    with Progress(RunFolder(tmp_path), RECIPE, Log()):
        pass
    assert "Step 160 of 160" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_whether_an_encoder_is_alive_stands_on_a_line(tmp_path, capsys):
    written = Journal(RunFolder(tmp_path).progress)
    with Progress(RunFolder(tmp_path), RECIPE, Log()):
        written.append({"step": 20, "time": 1.0, "unlabeled_effective_rank": 41.5, "unlabeled_alignment": 0.1, "unlabeled_uniformity": -0.5,
                        "unlabeled_background": 0.75, "unlabeled_neighbour_similarity": 0.25, "unlabeled_images": 256})
        written.flush()
    assert "step 20/160  unlabeled effective rank 41.5  unlabeled background 0.75  unlabeled neighbour similarity 0.25" in capsys.readouterr().err

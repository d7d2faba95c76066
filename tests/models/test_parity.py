"""Outputs and gradients of the reference implementations, as recorded."""

import shutil

import pytest
import torch

from benchmarks.parity import four_stage, records


@pytest.mark.parametrize("record", ["crnn_formula.pt", "trba_formula64.pt"])
def test_reproduces_the_recorded_outputs_and_gradients(parity_data, record):
    rows = records.compare(parity_data / record)
    for precision in ("float64", "float32"):
        quantities = {row.quantity for row in rows if row.precision == precision}
        assert {"features", "training loss"} < quantities
        assert any("logits" in quantity for quantity in quantities)
        assert any("gradient norms" in quantity for quantity in quantities)
    assert [row for row in rows if not row.found <= row.limit] == []
    if "64" in record:  # what both compute in float64 is the same function
        assert max(row.limit for row in rows if row.precision == "float64") < 1e-7


def test_a_wrong_weight_is_noticed(parity_data, monkeypatch):
    rebuild = four_stage.rebuild

    def spoiled(recorded, formula):
        recognizer = rebuild(recorded, formula)
        with torch.no_grad():
            recognizer.decoder.classifier.bias[0] += 0.01
        return recognizer

    monkeypatch.setattr(four_stage, "rebuild", spoiled)
    wrong = {row.quantity for row in records.compare(parity_data / "crnn_formula.pt") if row.found > row.limit}
    assert {"logits", "training loss"} <= wrong and "features" not in wrong


def test_of_a_reference_in_both_precisions_the_float64_record_is_taken(parity_data, tmp_path):
    for name in ("crnn_formula.pt", "trba_formula.pt", "trba_formula64.pt"):
        shutil.copy(parity_data / name, tmp_path)
    assert [file.name for file in records.records(tmp_path)] == ["crnn_formula.pt", "trba_formula64.pt"]


def test_a_folder_without_records_is_refused(tmp_path, capsys):
    assert records.main(["--parity", str(tmp_path)]) == 2
    assert "found none" in capsys.readouterr().err

"""Outputs and gradients of the reference implementations, as recorded."""

import pytest
import torch

import parity


@pytest.mark.parametrize("model", ["crnn", "trba"])
def test_reproduces_the_recorded_outputs_and_gradients(parity_data, model):
    rows = parity.compare(parity_data / f"{model}_formula.pt")
    quantities = {row.quantity for row in rows}
    assert {"features", "training loss, relative"} < quantities
    assert any("logits" in quantity for quantity in quantities)
    assert any("gradient norms" in quantity for quantity in quantities)
    assert [row for row in rows if not row.found <= row.limit] == []
    # Outputs are far closer than the limit; gradients through the rectifier depend on the order of sums.
    assert [row for row in rows if "gradient" not in row.quantity and not row.found <= 1e-4] == []


def test_a_wrong_weight_is_noticed(parity_data, monkeypatch):
    rebuild = parity.rebuild

    def spoiled(recorded, formula):
        recognizer = rebuild(recorded, formula)
        with torch.no_grad():
            recognizer.decoder.classifier.bias[0] += 0.01
        return recognizer

    monkeypatch.setattr(parity, "rebuild", spoiled)
    assert any(row.found > row.limit for row in parity.compare(parity_data / "crnn_formula.pt"))


def test_a_folder_without_records_is_refused(tmp_path, capsys):
    assert parity.main(["--parity", str(tmp_path)]) == 2
    assert "found none" in capsys.readouterr().err

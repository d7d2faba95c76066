"""Tables and precisions: float64 throughout where it is asked for, and tables that follow their module."""

import copy
import pickle
from functools import partial

import pytest
import torch

from models.charset import Charset
from models.encoders.transformer import sinusoids
from models.precision import Table, at_least_float32
from models.recognizers import build

CHARSET = Charset.named("36")


def test_precision_is_raised_to_float32_and_never_lowered():
    wanted = {torch.bfloat16: torch.float32, torch.float16: torch.float32, torch.float32: torch.float32, torch.float64: torch.float64}
    assert {given: at_least_float32(torch.ones(1, dtype=given)).dtype for given in wanted} == wanted


def test_a_table_is_rounded_once_whatever_was_asked_for_before():
    true, table = sinusoids(40, 8), Table(partial(sinusoids, 40, 8))
    for precision in (torch.float32, torch.bfloat16, torch.float64, torch.float16, torch.float32):
        assert torch.equal(table.to(precision)(), true.to(precision))
    coordinates = Table(partial(sinusoids, 40, 8), coordinates=True)
    assert torch.equal(coordinates.bfloat16()(), true.float()) and torch.equal(coordinates.double()(), true)
    assert not table.state_dict()


def test_a_table_survives_copies_and_is_made_where_it_had_no_values():
    marks = Table(partial(torch.eye, 3, dtype=torch.bool))
    with torch.device("meta"):
        weightless = Table(partial(sinusoids, 5, 4))
    assert weightless().is_meta and torch.equal(weightless.to_empty(device="cpu")(), sinusoids(5, 4).float())
    assert marks.double()().dtype == torch.bool and torch.equal(marks.to_empty(device="cpu")(), torch.eye(3, dtype=torch.bool))
    for twin in (copy.deepcopy(marks), pickle.loads(pickle.dumps(marks))):
        assert torch.equal(twin(), marks())
    assert marks.share_memory()().is_shared()


@pytest.mark.parametrize("name", ["crnn_tiny", "trba_tiny"])
def test_recognizers_run_in_bfloat16_without_autocast_too(name):
    recognizer = build(name, CHARSET).eval().bfloat16()
    with torch.no_grad():
        assert recognizer(torch.zeros(1, 3, recognizer.height, recognizer.width, dtype=torch.bfloat16)).logits.dtype == torch.bfloat16

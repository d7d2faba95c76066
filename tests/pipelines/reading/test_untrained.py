"""Of a model that was pretrained alone it is said that it cannot read."""

import cv2
import numpy as np
import torch

from models.charset import Charset
from models.recognizers import build
from pipelines.cli import run
from pipelines.reading.weights import save_recognizer


def test_a_decoder_that_has_learned_nothing_is_said_to_read_by_chance(tmp_path, capsys):
    torch.manual_seed(0)
    save_recognizer(tmp_path / "encoder", build("crnn_tiny", Charset.named("36")), {"run": "seqclr", "objective": "seqclr", "trained": ["encoder", "sequence"]})
    cv2.imwrite(str(tmp_path / "a.png"), np.arange(640, dtype=np.uint8).reshape(16, 40))
    assert run("predict", [str(tmp_path / "encoder"), str(tmp_path / "a.png")]) == 0
    assert (f"{tmp_path}/encoder was pretrained only (seqclr), and its decoder has learned nothing: what it reads is chance; fine-tune it first "
            f"(textray finetune RECIPE initialize_from={tmp_path}/encoder)") in capsys.readouterr().err

"""One paper, one file: each objective turns a batch into a loss.

An objective is an nn.Module with a `recognizer` (what moves on after training) and three members that the loop knows:
`views`, the names of the augmentations that it wants of each part of a batch; `forward(batch) -> Losses`; and
`after_step(step)`, called after the optimizer's step, which counts from 1. Its keyword-only arguments are the fields of
its recipe. Built on an untrained or a loaded recognizer, it is wrapped whole for distributed training: every parameter
that requires a gradient gets one, if only a zero, in every step.
"""

from models.objectives.byol import BYOL
from models.objectives.ccr import CCR
from models.objectives.dig import DiG
from models.objectives.fixmatch import FixMatch
from models.objectives.flexmatch import FlexMatch
from models.objectives.freematch import FreeMatch
from models.objectives.mae import MAE
from models.objectives.mean_teacher import MeanTeacher
from models.objectives.moco import MoCo
from models.objectives.persec import PerSec
from models.objectives.pseudo_label import PseudoLabel
from models.objectives.rotnet import RotNet
from models.objectives.semimtr import SemiMTR
from models.objectives.semimtr_vision import SemiMTRVision
from models.objectives.seqclr import SeqCLR
from models.objectives.simclr import SimCLR
from models.objectives.simsiam import SimSiam
from models.objectives.softmatch import SoftMatch
from models.objectives.supervised import Supervised
from models.objectives.uda import UDA
from models.objectives.visu import ViSu

OBJECTIVES = {
    # from labels, or from labels and unlabeled images
    "supervised": Supervised, "ccr": CCR, "visu": ViSu, "fixmatch": FixMatch, "uda": UDA, "mean_teacher": MeanTeacher, "pseudo_label": PseudoLabel,
    "flexmatch": FlexMatch, "freematch": FreeMatch, "softmatch": SoftMatch, "semimtr": SemiMTR, "semimtr_vision": SemiMTRVision,
    # from images alone
    "seqclr": SeqCLR, "simclr": SimCLR, "persec": PerSec, "moco": MoCo, "byol": BYOL, "simsiam": SimSiam, "rotnet": RotNet, "mae": MAE,
    "dig": DiG,
}

__all__ = ["BYOL", "CCR", "MAE", "OBJECTIVES", "UDA", "DiG", "FixMatch", "FlexMatch", "FreeMatch", "MeanTeacher", "MoCo", "PerSec", "PseudoLabel", "RotNet", "SemiMTR",
           "SemiMTRVision", "SeqCLR", "SimCLR", "SimSiam", "SoftMatch", "Supervised", "ViSu"]

"""One paper, one file: each objective turns a batch into a loss.

An objective is an nn.Module with a `recognizer` (what moves on after training) and three members that the loop knows:
`views`, the names of the augmentations that it wants of each part of a batch; `forward(batch) -> Losses`; and
`after_step(step)`, called after the optimizer's step, which counts from 1. Its keyword-only arguments are the fields of
its recipe. Built on an untrained or a loaded recognizer, it is wrapped whole for distributed training: every parameter
that requires a gradient gets one, if only a zero, in every step.
"""

import difflib

from torch import nn

from models.objectives.bcn import BCN
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
from models.own import names_of, own

OBJECTIVES = {
    # from labels, or from labels and unlabeled images
    "supervised": Supervised, "ccr": CCR, "visu": ViSu, "fixmatch": FixMatch, "uda": UDA, "mean_teacher": MeanTeacher, "pseudo_label": PseudoLabel,
    "flexmatch": FlexMatch, "freematch": FreeMatch, "softmatch": SoftMatch, "semimtr": SemiMTR, "semimtr_vision": SemiMTRVision,
    # from images alone
    "seqclr": SeqCLR, "simclr": SimCLR, "persec": PerSec, "moco": MoCo, "byol": BYOL, "simsiam": SimSiam, "rotnet": RotNet, "mae": MAE,
    "dig": DiG,
    # from texts alone
    "bcn": BCN,
}


def objective_named(name: str) -> type[nn.Module]:
    """The class of an objective: one of OBJECTIVES, `FILE.py:CLASS`, or an installed package's.

    ValueError for another name, with the nearest, and for a class that is no objective.
    """
    if name in OBJECTIVES:
        return OBJECTIVES[name]
    found = own("objectives", name)
    if found is None:
        near = difflib.get_close_matches(name, [*OBJECTIVES, *names_of("objectives")], n=1, cutoff=0.5)
        raise ValueError(f"did you mean {near[0]!r}?" if near else "known: " + ", ".join([*OBJECTIVES, *names_of("objectives"), "FILE.py:CLASS"]))
    if not (isinstance(found, type) and issubclass(found, nn.Module) and callable(getattr(found, "after_step", None))):
        raise ValueError(f"{name}: expected a torch.nn.Module with views, forward(batch) and after_step(step), found {found!r}; see docs/own.md")
    return found


__all__ = ["BCN", "BYOL", "CCR", "MAE", "OBJECTIVES", "UDA", "DiG", "FixMatch", "FlexMatch", "FreeMatch", "MeanTeacher", "MoCo", "PerSec", "PseudoLabel", "RotNet", "SemiMTR",
           "SemiMTRVision", "SeqCLR", "SimCLR", "SimSiam", "SoftMatch", "Supervised", "ViSu", "objective_named"]

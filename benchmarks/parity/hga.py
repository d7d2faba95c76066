"""How far our HGA is from its reference implementation, on recorded inputs and weights: see parity.py."""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor

from models.charset import Charset
from models.decoders.symbols import reversed_rows
from models.families.hga import HGA_CHARSET, hga
from models.published.hga import HGA
from models.recognizer import Recognizer


def rebuild(recorded: dict, formula: ModuleType) -> Recognizer:
    """The recognizer that a record describes, with the recorded weights, read through the published layout, in float64 and eval mode."""
    config, shapes, images = recorded["config"], recorded["param_shapes"], recorded["input"]
    charset = HGA_CHARSET if config["n_vocab"] == len(HGA_CHARSET) else Charset(Charset.named("94").characters[:config["n_vocab"]])
    recognizer = hga(
        charset, channels=images.shape[1], height=images.shape[2], width=images.shape[3],
        max_length=shapes["decoder1.position_enc.weight"][0] - 3, directions=2 if config["LR"] else 1,
        decoder_layers=config["dec_layer"])
    state = {name: formula.formula_param(name, shape) for name, shape in shapes.items() if "position_enc" not in name}
    for name in state:
        if name.endswith("tgt_word_emb.weight"):  # the formula's exception: padding is fed as zeros
            state[name][recognizer.decoder.tokens.pad] = 0
    recognizer.double().load_state_dict(HGA.load(recognizer, state | recorded["buffers"]))
    return recognizer.eval()


def _forced(recognizer: Recognizer, recorded: dict, memory: Tensor) -> dict[str, Tensor]:
    """What teacher forcing gives, under the record's names; of the logits and targets only the positions that are not padding."""
    decoder = recognizer.decoder
    targets = decoder.encode(recorded["labels"])
    lengths = (targets != decoder.tokens.pad).sum(1) - 1  # the start symbol is no target
    targets = targets[:, :lengths.max() + 1]
    decoded = decoder(memory, decoder.inputs(targets))
    found = {"tf_lengths": lengths, "tf_loss": decoder.loss(decoded, targets)}
    holistic, frames = decoder.look(memory)
    both = zip(decoder.directions, ("l2r", "r2l"), (decoded.logits, *decoded.branches.values()), strict=False)
    for number, (direction, name, logits) in enumerate(both, start=1):
        rows = targets if name == "l2r" else reversed_rows(targets, decoder.tokens)
        real = rows[:, 1:] != decoder.tokens.pad
        written = direction(decoder.inputs(rows), holistic, direction.project(frames))
        found |= {f"tf_{name}": logits[real], f"tf_targets_{name}": rows[:, 1:][real],
                  f"dec{number}_out": written.hidden, f"dec{number}_cross_attn_head0": written.attention[:, 0]}
    return found


def _beams(recognizer: Recognizer, names: set[str], memory: Tensor) -> dict[str, Tensor]:
    """The beams whose ids and scores the record has: beam<width>_<direction>_ids, filled up with end symbols, and …_score."""
    decoder, found = recognizer.decoder, {}
    for width in {int(name.removeprefix("beam").split("_")[0]) for name in names if name.startswith("beam")}:
        for direction, best in zip(("l2r", "r2l"), decoder.beam_search(memory, width), strict=False):
            ids = F.pad(best.ids, (0, decoder.max_length + 2 - best.ids.shape[1]), value=decoder.tokens.end)
            found |= {f"beam{width}_{direction}_ids": ids.flatten(), f"beam{width}_{direction}_score": best.scores}
    return found


@torch.no_grad()
def pairs(recognizer: Recognizer, recorded: dict) -> dict[str, tuple[Tensor, Tensor] | None]:
    """Every quantity that the record holds, ours and recorded; None for one that is not known here."""
    expected = recorded["output"]
    rows, columns = (size // 8 for size in recorded["input"].shape[2:])
    memory = recognizer.encode(recorded["input"])
    holistic, frames = recognizer.decoder.look(memory)
    features = memory.transpose(1, 2).unflatten(2, (rows, columns))  # (n, 512, rows, columns)
    ours = {"feature_slice": features[:, ::16], "global": holistic, "memory_mean": frames.mean(1)}  # every 16th channel is recorded
    ours |= _forced(recognizer, recorded, memory) | _beams(recognizer, expected.keys(), memory)
    tables = sum(direction.positions().numel() for direction in recognizer.decoder.directions)  # the reference counts them
    parameters = sum(parameter.numel() for parameter in recognizer.parameters()) + tables
    return {"parameters": (torch.tensor(parameters), torch.tensor(recorded["n_params"])),
            **{name: (ours[name], theirs) if name in ours else None for name, theirs in expected.items()}}

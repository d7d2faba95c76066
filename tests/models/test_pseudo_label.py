"""Pseudo-labels: the authors' filter, label rows, losses and gradients; the labeler is the recognizer's former self and stays so."""

import pytest
import torch

from ccr_models import BOTH, full_batch, objective, recognizer
from models.charset import AttentionTokens, Charset, attention_tokens, ctc_tokens
from models.decoders.abinet import abinet_tokens
from models.objectives import Supervised
from models.objectives.pseudo_label import label_loss, own_symbols, passes, pseudo_labels
from models.objectives.readings import read

NINETY_FOUR = Charset.named("94")
TABLES = {"Attn": attention_tokens(NINETY_FOUR, "fewer_labels"), "CTC": ctc_tokens(NINETY_FOUR, "fewer_labels")}
FORBIDDEN = {"Attn": (0, 1, 2), "CTC": (1, 2)}  # padding, unknown, and the attention decoder's start; their space is ordinary


@pytest.fixture(scope="module")
def recorded(parity_data) -> dict:
    return torch.load(parity_data / "fewer_labels.pt", map_location="cpu", weights_only=True)["pseudo_label"]


@pytest.mark.parametrize("kind", ["Attn", "CTC"])
def test_reproduces_the_authors_filter_labels_loss_and_gradient(recorded, kind):
    case, tokens = recorded[kind], TABLES[kind]
    symbols = case["teacher_ids"]
    kept = passes(symbols, FORBIDDEN[kind])
    assert kept.nonzero().flatten().tolist() == case["kept"].tolist()

    chosen = symbols[kept]
    logits = 10.0 * torch.nn.functional.one_hot(chosen, tokens.classes).double()
    labels = pseudo_labels(read(logits, tokens), chosen, tokens)
    if kind == "Attn":
        assert torch.equal(labels.inputs, case["label_index"][:, :-1]) and torch.equal(labels.symbols, case["label_index"][:, 1:])
        assert labels.steps.sum(1).tolist() == case["label_length"].tolist()
    student = case["student_logits"].double().requires_grad_(True)
    loss = label_loss(labels, student, torch.ones(len(student), dtype=torch.bool), tokens)
    loss.backward()
    # The record is a float32 sum over at most 10 frames of 3 log probabilities, or over 41 symbols: about 20 x 1e-6.
    assert loss.item() == pytest.approx(case["loss"].item(), abs=2e-5)
    assert student.grad.norm().item() == pytest.approx(case["grad_norm"], abs=2e-6)
    torch.testing.assert_close(student.grad[0, :4], case["grad_row"].double(), rtol=0, atol=1e-6)


def test_what_is_forbidden_follows_from_the_table():
    assert own_symbols(AttentionTokens(Charset("abc"))) == (0,)  # start, which pads
    assert own_symbols(attention_tokens(Charset("abc"), "parseq")) == (4, 5)  # start and padding behind the characters
    assert own_symbols(abinet_tokens(Charset("abc"))) == ()  # its 0 ends, pads and starts
    assert own_symbols(ctc_tokens(Charset("abc"))) == ()
    assert own_symbols(TABLES["Attn"]) == (0, 1, 2, 4) and own_symbols(TABLES["CTC"]) == (1, 2, 3)  # our tables write no space


@BOTH
def test_the_loss_is_the_decoders_own_with_what_the_labeler_reads(name):
    model = objective("pseudo_label", name)
    decoder, batch = model.recognizer.decoder, full_batch(model)
    decoder.max_length = 25 if name == "crnn_tiny" else 8  # the labeler may write as many characters as there are frames
    with torch.no_grad():  # the student is another by now
        model.recognizer.decoder.classifier.bias += torch.linspace(-1, 1, decoder.tokens.classes)
    labels = model.labeler.read(batch.unlabeled.views[0]).texts
    raw = model.labeler(batch.unlabeled.views[0]).logits.argmax(-1)
    fair = [i for i, row in enumerate(raw.tolist()) if name == "crnn_tiny" or (0 not in row and 1 in row)]  # passes, and ends with an end symbol
    assert len(fair) > 1
    batch.unlabeled.views = (batch.unlabeled.views[0][fair],)
    targets = decoder.encode([labels[i] for i in fair])
    expected = decoder.loss(model.recognizer(batch.unlabeled.views[0], decoder.inputs(targets)), targets)
    losses = model(batch)
    assert losses.named["kept_fraction"] == 1
    assert losses.named["consistency_loss"].item() == pytest.approx(expected.item(), rel=1e-9)


@BOTH
def test_the_labeler_never_moves(name):
    model = objective("pseudo_label", name).train()
    before = {key: value.clone() for key, value in model.labeler.state_dict().items()}
    optimizer = torch.optim.SGD(model.recognizer.parameters(), lr=0.1)
    model(full_batch(model)).total.backward()
    optimizer.step()
    model.after_step(1)
    assert all(torch.equal(value, before[key]) for key, value in model.labeler.state_dict().items())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in model.labeler.parameters())
    assert model.training and not model.labeler.training


@BOTH
def test_where_no_word_is_kept_the_supervised_loss_is_left(name):
    model, supervised = objective("pseudo_label", name, confidence_threshold=1.0), Supervised(recognizer(name)).eval()
    losses, expected = model(full_batch(model)), supervised(full_batch(model))
    losses.total.backward()
    assert losses.total == expected.total and losses.named["kept_fraction"] == 0
    assert all(parameter.grad is not None for parameter in model.recognizer.parameters())


def test_the_labeler_may_look_at_another_view():
    model = objective("pseudo_label", "crnn_tiny", labeler_view="weak")
    assert model.views["unlabeled"] == ("strong", "weak")
    seen = []
    model.labeler.register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    batch = full_batch(model)
    model(batch)
    assert seen[0] is batch.unlabeled.views[1]

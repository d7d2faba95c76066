"""What is said of a run that cannot work, word by word; and silence where it can."""

import pytest

from models.charset import Charset
from pipelines.evaluation.protocols import rule_of
from pipelines.training.dry_run import half_width as planned
from pipelines.training.prospects import half_width, of_labels, of_words, prospects, words_for


def logged(**numbers: list[float]) -> list[dict[str, float]]:
    """Lines of a journal, a number every 20 steps, and one of a validation between them."""
    count = len(next(iter(numbers.values())))
    lines = [{"step": 20 * (place + 1), "time": 0.0, **{name: values[place] for name, values in numbers.items()}} for place in range(count)]
    return [*lines[:2], {"step": 40, "time": 0.0, "word_accuracy": 0.5}, *lines[2:]]


def test_nothing_is_kept():
    lines = logged(kept_fraction=[0.1, 0, 0, 0, 0, 0], mean_score=[0.5, 0.01, 0.01, 0.02, 0.02, 0.04])
    assert dict(prospects(lines, 0.5)) == {
        "kept": "no unlabeled image was kept in the 5 steps logged last (steps 40 to 120); their mean score is 0.02 and the threshold 0.5: nothing "
                "is learned from them; lower objective.confidence_threshold, or start from a model that reads (initialize_from)"}
    assert dict(prospects(logged(kept_fraction=[0] * 5)))["kept"] == (
        "no unlabeled image was kept in the 5 steps logged last (steps 20 to 100): nothing is learned from them; start from a model that reads "
        "(initialize_from)")
    assert not list(prospects(lines[:-1], 0.5)) and not list(prospects(logged(kept_fraction=[0] * 4)))


def test_lengths_and_characters_collapse():
    fallen, steady = [1.5] * 5 + [0.9, 0.4, 0.2, 0.1, 0.1, 0.0, 0.1], [2.5, 2.0, 2.2] * 4
    [(subject, sentence)] = prospects(logged(length_entropy=fallen, character_entropy=steady), 0.5)
    assert (subject, sentence) == ("lengths", (
        "the lengths of what is read in unlabeled images collapse: their entropy fell from 1.50 nats to 0.10 (steps 160 to 240); a model that learns "
        "from itself drifts to one short word, unless all of these words have one length: raise objective.confidence_threshold, lower "
        "objective.consistency_weight, or start from a model that reads (initialize_from)"))
    [(subject, sentence)] = prospects(logged(character_entropy=[2.0] * 5 + [0.0] * 5))
    assert subject == "characters" and sentence.startswith(
        "the characters of what is read in unlabeled images collapse: their entropy fell from 2.00 nats to 0.00 (steps 120 to 200)")
    assert sentence.endswith("short word: lower objective.consistency_weight, or start from a model that reads (initialize_from)")  # no threshold


@pytest.mark.parametrize("entropies", [[1.5] * 5 + [0.31] * 5,  # low, but not that low
                                       [0.2] * 5 + [0.05] * 5,  # never was there: it fell to a quarter
                                       [1.5] * 4 + [0.0] * 5])  # too early to say
def test_no_collapse(entropies):
    assert not list(prospects(logged(length_entropy=entropies)))


def test_what_is_kept_is_not_learned():
    lines = logged(kept_fraction=[0.8] * 5, agreement=[0.0, 0.0, 0.05, 0.0, 0.0])
    assert dict(prospects(lines)) == {
        "apart": "80% of the unlabeled images are kept, but what is read in their two views agrees in 1.0% (steps 20 to 100): the pseudo-labels are "
                 "not learned; look at them in the run's report"}
    assert not list(prospects(logged(kept_fraction=[0.1] * 5, agreement=[0.0] * 5)))  # as a model that begins


def test_too_few_validation_words():
    assert of_words(300) == ("300 validation words know an accuracy of 50 % to ± 5.7 points only: a difference of 2.5 points is not seen, 1,537 words "
                             "could show it")
    assert words_for(2.5) == 1537 and of_words(1537) is None and of_words(1536) is not None
    assert half_width(9604) == pytest.approx(1.0, abs=1e-12) and planned is half_width


def test_a_run_of_which_nothing_is_known_yet():
    assert not list(prospects([])) and not list(prospects([{"step": 1, "time": 0.0, "loss": 3.0}] * 20))


def test_the_readers_of_images_are_too_slow():
    lines = logged(waiting_fraction=[0.9, 0.3, 0.4, 0.2, 0.3, 0.3])
    assert dict(prospects(lines)) == {
        "waiting": "30% of the time passes in waiting for images (steps 40 to 120): give their readers more CPUs (a lower training.cpus_per_worker or "
                   "threads_per_worker leaves some), or faster storage"}
    assert not list(prospects(logged(waiting_fraction=[0.1, 0.2, 0.2, 0.2, 0.2]))) and not list(prospects(lines[:4]))


def test_an_encoder_has_collapsed():
    lines = logged(unlabeled_effective_rank=[40.0, 12.0, 1.3])
    assert dict(prospects(lines)) == {
        "features": "the encoder has collapsed: its frames have an effective rank of 1.3 at step 60, so that all images look alike to it: lower "
                    "optimizer.learning_rate, or begin anew under another name"}
    assert not list(prospects(logged(unlabeled_effective_rank=[1.3, 40.0])))


def test_a_loss_that_stands_still_is_said_of_a_run_that_began_from_nothing():
    flat, falling = logged(loss=[4.0, 3.9] * 6), logged(loss=[4.0 - 0.1 * step for step in range(12)])
    assert dict(prospects(flat, steps=1000, fresh=True)) == {
        "loss": "the loss does not fall: 3.96 at first, 3.94 now (steps 160 to 240): raise optimizer.learning_rate if it stands, lower it if it rises or jumps, "
                "and look whether labels and images belong together (textray describe)"}
    for silent in (prospects(flat, steps=1000), prospects(flat, steps=3000, fresh=True), prospects(flat), prospects(falling, steps=1000, fresh=True),
                   prospects(logged(loss=[0.01] * 12), steps=1000, fresh=True)):
        assert "loss" not in dict(silent)


def test_not_one_word_is_read_after_a_tenth_of_the_run():
    lines = [{"step": 100, "time": 0.0, "word_accuracy": 0.0, "validation_words": 300}]
    assert dict(prospects(lines, steps=1000))["accuracy"].startswith("not one of the 300 validation words is read at step 100 of 1,000: a recognizer that begins from nothing")
    assert not list(prospects(lines, steps=2000)) and not list(prospects([*lines, {"step": 200, "time": 0.0, "word_accuracy": 0.01}], steps=1000))


def test_labels_with_characters_that_the_rule_ignores():
    labels = ["A-1", "B:2", "C3", "D.4-5"]
    assert of_labels(labels, rule_of("36", Charset.named("94"))) == (
        "3 of 4 validation words hold - : . that the rule 36 ignores: they count as read without; choose another recognizer.charset or recognizer.rule if they matter")
    assert of_labels(labels, rule_of("charset", Charset.named("36"))) == (
        "3 of 4 validation words hold - : . that the recognizer's charset lacks: they count as read without; choose another recognizer.charset if they matter")
    assert of_labels(labels, rule_of("charset", Charset.named("94"))) is None and of_labels(["a b"], rule_of("36", Charset.named("36"))) is None

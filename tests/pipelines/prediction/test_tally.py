"""What was read, counted by how sure it was; and which of it is kept."""

import numpy as np

from models.charset import Charset
from pipelines.evaluation.protocols import rule_of
from pipelines.prediction.tally import LEVELS, Tally, left_out, reaches
from pipelines.reading.batches import Read


def test_images_are_counted_by_confidence_and_held_against_their_labels():
    tally, other, rule = Tally(), Tally(), rule_of("36", Charset.named("36"))
    tally.count(Read("stop", 0.9), "STOP!", rule)
    tally.count(Read("shop", 0.89), "stop", rule)
    tally.count(Read("stop", 0.4), None, rule)
    tally.count(Read("stop", 1.0), "!", rule)  # of which the rule can compare nothing
    tally.count(Read("", 0.99), "stop", rule)
    tally.count(Read("", 0.0, "truncated image"), "stop", rule)
    assert LEVELS == (0.0, 0.5, 0.7, 0.8, 0.9, 0.95, 0.99)
    assert (tally.images, tally.empty, tally.unreadable) == (6, 1, {"truncated image": 1})
    assert tally.sure == [4, 3, 3, 3, 2, 1, 1] and tally.labeled == [2, 2, 2, 2, 1, 0, 0] and tally.equal == [1, 1, 1, 1, 1, 0, 0]
    other.add(tally)
    other.add(tally)
    assert other.images == 12 and other.unreadable == {"truncated image": 2} and other.sure == [8, 6, 6, 6, 4, 2, 2]
    assert str(tally).splitlines()[5] == ">= 0.90          2     33.3             1             100.00"


def test_a_confidence_is_compared_as_it_is_kept():
    assert reaches(float(np.float32(0.9)), 0.9) and not reaches(float(np.nextafter(np.float32(0.9), np.float32(0))), 0.9)
    assert left_out("a", 0.5, None, 0.5) is None and left_out("a", 0.4, None, 0.5) == ("filtered", "confidence below 0.5")
    assert left_out("", 1.0, None, 0.5) == ("filtered", "empty reading") and left_out("", 0.0, "not an image", 0.0) == ("quarantined", "not an image")

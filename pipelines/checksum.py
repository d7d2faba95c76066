"""The checksum that a description (corpus.json, recognizer.json) carries of itself, so that an edit or a flipped bit is noticed.

It is of the content, not of the bytes: another indentation or another order of the keys changes nothing.
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

CHECKSUM = "checksum"


def checksum(description: Mapping[str, Any]) -> str:
    """The sha256 of a description's content, but for the checksum that it carries."""
    content = {key: value for key, value in description.items() if key != CHECKSUM}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def with_checksum(description: Mapping[str, Any]) -> dict[str, Any]:
    """The description with its checksum as the last key; an older one is replaced."""
    content = {key: value for key, value in description.items() if key != CHECKSUM}
    return {**content, CHECKSUM: checksum(content)}


def intact(description: Mapping[str, Any]) -> bool:
    """Whether a description is what was written. One without a checksum, from before there was one, is taken as it is."""
    return description.get(CHECKSUM) in (None, checksum(description))

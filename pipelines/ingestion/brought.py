"""A corpus wherever one is expected: a folder of images, an LMDB or a tar is brought in when it is first named, once, into a cache.

The cache is $TEXTRAY_CACHE, or textray/ in the user's cache folder. A corpus in it is named by what lies at the place (names, sizes and times of its files) and
by the versions that decide the bytes, so that what has changed is brought in anew. Other options than `textray ingest`'s defaults are that command's business.
"""

import hashlib
import json
import os
import re
from pathlib import Path

from pipelines.corpus import storage
from pipelines.corpus.manifest import MANIFEST
from pipelines.errors import BadInput
from pipelines.ingestion.pipeline import ingest, versions
from pipelines.ingestion.sources.opening import open_sources
from pipelines.progress import say

ARCHIVES = (".tar", ".tar.gz", ".tgz", ".parquet", ".mdb")  # files that hold images; lists of images are for `textray ingest`


def cache_folder() -> str:
    """Where such corpora lie."""
    own = os.environ.get("TEXTRAY_CACHE")
    return own or str(Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "textray")


def brought_in(place: str) -> str:
    """The place itself if a corpus lies there, or nothing that can be ingested; else the corpus that is made of what does."""
    if storage.kind(storage.join(place, MANIFEST)) is not None:  # asked first: in a store each question takes its time
        return place
    kind = storage.kind(place)
    if kind is None or (kind == "file" and not place.lower().endswith(ARCHIVES)):
        return place
    try:
        sources = open_sources([place])
    except BadInput:  # whoever opens the corpus says what was expected
        return place
    known = json.dumps([versions(), [(source.name, source.count(), source.fingerprint) for source in sources]])
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", os.path.basename(place.rstrip("/"))).strip("-.") or "images"
    target = storage.join(cache_folder(), f"{name}-{hashlib.sha256(known.encode()).hexdigest()[:16]}")
    if storage.kind(storage.join(target, MANIFEST)) is None:
        say(f"textray: {place} is no corpus yet: it is brought in, once, to {target}")
        ingest([place], target)
    return target

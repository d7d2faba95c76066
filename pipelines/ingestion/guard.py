"""Benchmarks that an ingest guards: hashes of their images, which no row may have."""

import pyarrow as pa

from pipelines.corpus.images import image_problem
from pipelines.corpus.pictures import decode_gray
from pipelines.errors import BadInput
from pipelines.ingestion.duplicates.hashes import GUARD_HASHES, hash_rows, hashed
from pipelines.ingestion.wordsets import open_sets


def hash_set(arguments: list[str]) -> pa.Table:
    """The hashes of benchmark images (PATH or NAME=PATH each: a corpus or anything that can be ingested), as GUARD_HASHES.

    Images that cannot be decoded are no benchmark images. Raises BadInput if nothing is left, or for what `open_sets` does.
    """
    tables = []
    for words in open_sets(arguments):
        waiting, keys = [], []
        for key, image, text in words.read():
            gray = None if image is None else decode_gray(image)
            if image is None or image_problem(image, gray) is not None:
                continue
            waiting.append(hashed(image, text, gray))
            keys.append(f"{words.name}:{key}")
        if waiting:
            tables.append(hash_rows(waiting).append_column(GUARD_HASHES.field("key"), pa.array(keys, pa.string())))
    if not tables:
        raise BadInput(f"--guard {' '.join(arguments)}: expected images to guard, found none that can be decoded: name another set")
    return pa.concat_tables(tables).combine_chunks()

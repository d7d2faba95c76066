"""The one storage format: a folder of Parquet shards with a manifest, `corpus.json`, that is written last.

    corpus.json            what the corpus holds and how it was made; a folder without it is not (yet) a corpus
    part-SOURCE-00000.parquet ...   the images, in row groups of about 1000 rows
    quarantine.parquet     every row that was rejected, with its reason

A row group is the unit of shuffling and of resumption. Their sizes stand in the manifest, so opening a corpus of
thousands of shards reads one JSON file and one folder listing, and nothing here is proportional to the images.
"""

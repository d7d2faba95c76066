"""A bucket for runs that live in an object store."""

import pytest


@pytest.fixture(scope="module")
def bucket(stores, request) -> str:
    """The URI of a bucket that is a file's own: whichever files a process runs before it, the file finds it empty."""
    import boto3
    name = request.module.__name__.rsplit(".", 1)[-1].replace("_", "-")
    boto3.client("s3").create_bucket(Bucket=name)
    return f"s3://{name}"

"""A bucket for runs that live in an object store."""

import pytest


@pytest.fixture(scope="session")
def bucket(stores) -> str:
    """The URI of an empty bucket."""
    import boto3
    boto3.client("s3").create_bucket(Bucket="runs")
    return "s3://runs"

"""What the tests of the pipelines share."""

import pytest


@pytest.fixture(scope="session")
def store(tmp_path_factory) -> str:
    """The URI of one MLflow store for all tests: its schema takes seconds to create."""
    from pipelines.tracking import prepare_store
    uri, _ = prepare_store(f"sqlite:///{tmp_path_factory.mktemp('store') / 'mlflow.db'}")
    return uri

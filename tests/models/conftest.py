"""Models are tested on one thread."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def models_on_one_thread(one_thread):
    """Every test of this folder."""

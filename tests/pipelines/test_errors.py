"""What a message must not tell."""

import pickle

import pytest

from pipelines.errors import BadInput, without_credentials


@pytest.mark.parametrize("text, shown", [
    ("s3://KEY:SECRET@bucket/x", "s3://***@bucket/x"), ("s3://AKIA:se/c+r=et@bucket/x y", "s3://***@bucket/x y"), ("gs://token@bucket", "gs://***@bucket"),
    ("https://user:pass@host/p?q=1", "https://***@host/p?q=1"), ("postgresql://u:p@ss@h:5432/db", "postgresql://***@h:5432/db"),
    ("mysql+pymysql://u:p@h/d", "mysql+pymysql://***@h/d"), ("NAME=tar:s3://K:S@b/x: expected …", "NAME=tar:s3://***@b/x: expected …"),
    ("'s3://K:S@b/x' and https://u@h", "'s3://***@b/x' and https://***@h"),
    ("https://b.s3.amazonaws.com/x?X-Amz-Credential=abc&y=1&X-Amz-Signature=def: no", "https://b.s3.amazonaws.com/x?X-Amz-Credential=***&y=1&X-Amz-Signature=***: no"),
    ("s3://b/x?secret_key=abc", "s3://b/x?secret_key=***"), ("db://h/d?user=u&password=p", "db://h/d?user=u&password=***")])
def test_credentials_in_uris_are_left_out(text, shown):
    assert without_credentials(text) == shown == without_credentials(shown)
    problem = BadInput(text)
    assert str(problem) == shown == str(pickle.loads(pickle.dumps(problem)))  # as it travels from a worker


@pytest.mark.parametrize("text", [
    "hf://datasets/user/words@main/x", "s3://bucket/a@b:c/d", "http://127.0.0.1:5000: no answer", "s3://host:9000/bucket/a@b", "sqlite:////a?b/mlflow.db",
    "s3://bucket/key=1/monkey=2", "user@host: a/b:c@d", "file:///home/me@here/x"])
def test_what_holds_none_stays_as_it_is(text):
    assert without_credentials(text) == text

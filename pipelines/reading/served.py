"""The served model: MLflow runs this file in a fresh process, beside a copy of the sources that it needs.

Only what package.py lists as SERVING_SOURCES and SERVING_REQUIREMENTS is there: import nothing else.
"""

import base64
import binascii
from urllib.parse import unquote_to_bytes

import pandas as pd
import torch
from mlflow.exceptions import MlflowException
from mlflow.models import set_model
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc import PythonModel, PythonModelContext

from pipelines.corpus.image_formats import image_format
from pipelines.reading.batches import read_stream
from pipelines.reading.weights import load_recognizer

URL_SAFE = bytes.maketrans(b"-_", b"+/")


def encoded(image: object) -> bytes | None:
    """An encoded image as bytes, None for what is neither bytes nor text.

    MLflow decodes base64 in data frames, but hands it on as text in the form `inputs`. Texts are base64, with the letters of RFC 4648's
    section 4 or 5, wrapped or not, padded or not, or `data:` URIs (RFC 2397). What is none of these comes back as it is.
    """
    if not isinstance(image, (bytes, bytearray, memoryview, str)):
        return None
    data = image.encode("utf-8", "replace") if isinstance(image, str) else bytes(image)
    if image_format(data):
        return data
    text = data.strip()
    if text[:5].lower() == b"data:":
        head, _, body = text.partition(b",")
        text = unquote_to_bytes(body)
        if not head.lower().endswith(b";base64"):
            return text
    decoded = _from_base64(text)
    return decoded if image_format(decoded) else data


def _from_base64(text: bytes) -> bytes:
    """What a text in base64 says; nothing if it is no base64."""
    plain = b"".join(text.split()).translate(URL_SAFE).rstrip(b"=")
    try:
        return base64.b64decode(plain + b"=" * (-len(plain) % 4), validate=True)
    except binascii.Error:
        return b""


class ServedRecognizer(PythonModel):
    """Column `image` (encoded image files) in; columns `text`, `confidence` and `characters` out, one row for each image: the probabilities of the text and of each of
    its characters."""

    def load_context(self, context: PythonModelContext) -> None:
        """Build the recognizer and load its weights, without pickle; on a GPU if there is one."""
        self.recognizer = load_recognizer(context.artifacts["recognizer"])
        self.recognizer.to("cuda" if torch.cuda.is_available() else "cpu")

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame,
                params: dict | None = None) -> pd.DataFrame:
        """Read every image.

        Raises MlflowException, which MLflow's server answers with status 400, if one of them cannot be decoded: it names all these rows.
        """
        reads = [read for _, read in read_stream(self.recognizer, model_input["image"], encoded)]
        bad = [f"row {row} ({read.problem})" for row, read in enumerate(reads) if read.problem is not None]
        if bad:
            raise MlflowException(f"expected {len(reads)} encoded images (JPEG, PNG ...; as text in base64 or as data: URIs), found {len(bad)} that cannot be "
                                  f"read, counted from 0: {', '.join(bad)}: correct them, or leave them out", INVALID_PARAMETER_VALUE)
        return pd.DataFrame({"text": [read.text for read in reads], "confidence": [read.confidence for read in reads],
                             "characters": [list(read.characters) for read in reads]}, index=model_input.index).astype({"text": str, "confidence": "float64"})


set_model(ServedRecognizer())

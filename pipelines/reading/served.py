"""The served model: MLflow runs this file in a fresh process, beside a copy of the sources that it needs.

Only what package.py lists as SERVING_SOURCES and SERVING_REQUIREMENTS is there: import nothing else.
"""

import base64

import pandas as pd
import torch
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel, PythonModelContext

from pipelines.corpus.image_formats import image_format
from pipelines.reading.batches import read_stream
from pipelines.reading.weights import load_recognizer


def encoded(image: bytes | str) -> bytes:
    """An encoded image as bytes: MLflow decodes base64 in data frames, but hands it on as text in the form `inputs`."""
    data = image.encode() if isinstance(image, str) else image
    if image_format(data):
        return data
    try:
        decoded = base64.b64decode(data)
    except ValueError:
        return data
    return decoded if image_format(decoded) else data


class ServedRecognizer(PythonModel):
    """Column `image` (encoded image files) in; columns `text` and `confidence` out, one row for each image."""

    def load_context(self, context: PythonModelContext) -> None:
        """Build the recognizer and load its weights, without pickle; on a GPU if there is one."""
        self.recognizer = load_recognizer(context.artifacts["recognizer"])
        self.recognizer.to("cuda" if torch.cuda.is_available() else "cpu")

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame,
                params: dict | None = None) -> pd.DataFrame:
        """Read every image. One that cannot be decoded gives an empty text with confidence 0."""
        reads = [read for _, read in read_stream(self.recognizer, model_input["image"], encoded)]
        return pd.DataFrame({"text": [read.text for read in reads], "confidence": [read.confidence for read in reads]},
                            index=model_input.index).astype({"text": str, "confidence": "float64"})


set_model(ServedRecognizer())

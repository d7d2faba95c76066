"""The JSON schema of recipes, by which editors complete and check one: the sections' fields, and those of each objective and recognizer."""

import inspect
from typing import Any, Literal

from pydantic import TypeAdapter

from models.objectives import OBJECTIVES
from models.recognizer import ASPECTS
from models.recognizers import RECOGNIZERS
from pipelines.training.recipe import Recipe, options_of


def schema() -> dict[str, Any]:
    """As pydantic writes it for the typed sections; objectives and recognizers are told apart by their names."""
    made = Recipe.model_json_schema()
    made["$schema"], made["title"] = "https://json-schema.org/draft/2020-12/schema", "A recipe of textray"
    made["properties"]["objective"] = _by_name({name: _objective(name) for name in OBJECTIVES}, "objective")
    recognizer = made["$defs"]["RecognizerRecipe"]
    recognizer["allOf"] = [{"if": {"properties": {"name": {"const": name}}, "required": ["name"]}, "then": {"properties": {"options": _recognizer(name)}}}
                           for name in RECOGNIZERS]
    recognizer["properties"]["name"]["examples"] = list(RECOGNIZERS)
    for field in ("charset", "rule"):  # `charset: 36` is a number to YAML
        text = recognizer["properties"][field]
        recognizer["properties"][field] = {"anyOf": [{key: text.pop(key) for key in ("type", "enum") if key in text}, {"type": "integer"}], **text}
    return made


def _by_name(kinds: dict[str, dict[str, Any]], what: str) -> dict[str, Any]:
    """One of several kinds; another name is the user's own."""
    return {"type": "object", "required": ["name"], "properties": {"name": {"type": "string", "examples": list(kinds), "description": f"a registered {what}, or FILE.py:CLASS"}},
            "allOf": [{"if": {"properties": {"name": {"const": name}}, "required": ["name"]}, "then": kind} for name, kind in kinds.items()]}


def _objective(name: str) -> dict[str, Any]:
    kind = options_of(OBJECTIVES[name]).model_json_schema()
    about = inspect.getdoc(OBJECTIVES[name]) or ""
    return {"description": about.partition("\n")[0], "properties": {"name": {"const": name}, **kind.get("properties", {})},
            "required": ["name", *kind.get("required", [])], "additionalProperties": False} | ({"$defs": kind["$defs"]} if "$defs" in kind else {})


def _recognizer(name: str) -> dict[str, Any]:
    fields = {field: TypeAdapter(parameter.annotation).json_schema() | ({} if parameter.default is inspect.Parameter.empty else {"default": parameter.default})
              for field, parameter in inspect.signature(RECOGNIZERS[name], eval_str=True).parameters.items() if field != "charset"}
    return {"type": "object", "properties": {**fields, "aspect": TypeAdapter(Literal[ASPECTS]).json_schema()}, "additionalProperties": False}

"""The recipe: everything that decides what a run computes, typed. Running the recipe that MLflow holds again is the same run.

A recipe is a YAML file. `key=value` on the command line overrides a field by its dotted path (`training.steps=100`); the value
is read as YAML. An objective's fields are the keyword arguments of its class, a recognizer's `options` those of its builder:
one place for every constant and its published default.

A recipe is checked twice: first its keys and names, from the sources alone (`models.names`), so that a slip is answered at once; then, with
PyTorch imported, the values of the objective's fields and of the recognizer's options.
"""

import copy
import difflib
import hashlib
import inspect
import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, ValidationError, ValidationInfo, create_model, field_validator, model_validator

from models import names
from models.charset import Charset
from models.own import names_of
from pipelines.errors import BadInput
from pipelines.evaluation.protocols import RULE_NAMES
from pipelines.state import parse_yaml
from pipelines.training.hints import nearest
from pipelines.training.packaged import packaged


class Section(BaseModel):
    """A part of a recipe: unknown keys are refused, fields do not change, numbers are finite and neither true nor false."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    @field_validator("*", mode="before")
    @classmethod
    def _kind(cls, value: Any, info: ValidationInfo) -> Any:
        kind = cls.model_fields[info.field_name].annotation
        kinds = {kind, *get_args(kind)}
        if bool in kinds and not isinstance(value, bool | None):
            raise ValueError(f"expected true or false, found {value!r}")
        held = value.values() if isinstance(value, dict) and info.field_name == "weights" else [value]
        if bool not in kinds and any(isinstance(each, bool) for each in held):
            raise ValueError(f"expected a number or a text, found {str(value).lower()}")
        return value


class RecognizerRecipe(Section):
    """Which architecture reads, and which characters."""

    name: str = Field(description="a registered recognizer: " + ", ".join(names.recognizers()))
    charset: str = Field("36", description="36, 62, 94, or the characters themselves")
    rule: Literal[RULE_NAMES] = Field("charset", description="how its readings are compared with labels, also once it is registered: charset: what the "
                                      "charset has, as it spells it; 36, 62, 94; exact: every character")
    options: dict[str, Any] = Field({}, description="keyword arguments of the recognizer, such as width: 128")

    @field_validator("charset", "rule", mode="before")
    @classmethod
    def _number(cls, value: Any) -> Any:
        return str(value) if isinstance(value, int) else value  # `charset: 36` and `rule: 36` are numbers to YAML

    @field_validator("name")
    @classmethod
    def _known(cls, value: str, info: ValidationInfo) -> str:
        if value not in names.recognizers() and ".py:" not in value and value not in names_of("recognizers"):
            raise ValueError(f"no recognizer is called {value!r}; {nearest(value, [*names.recognizers(), *names_of('recognizers')])}")
        if not info.context:
            from models.recognizers import builder_named
            try:
                builder_named(value)
            except ValueError as problem:
                raise ValueError(f"no recognizer is called {value!r}; {problem}") from None
        return value

    @field_validator("options")
    @classmethod
    def _options(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        if "name" in info.data and not info.context:
            from models.recognizers import check_options
            check_options(info.data["name"], value)
        return value


class StreamRecipe(Section):
    """One stream of training images."""

    corpus: str | list[str] = Field(description="a corpus, as `textray ingest` or `textray render` wrote it, or a folder, LMDB or tar to bring in, or several: paths or URIs")
    batch_size: int | None = Field(None, gt=0, description="images per step and worker; none: 64, fewer where an epoch would have fewer than 4 batches")
    fraction: float = Field(1.0, gt=0, le=1, description="share of the corpus, drawn by a seeded hash of the key: 5 % lies within 10 %")
    weights: dict[str, PositiveFloat] | None = Field(None, min_length=1, description="share of each source of the corpora in every batch, such "
                                                     "as {MJ: 0.3, ST: 0.7}; none: every row counts the same")

    @property
    def corpora(self) -> list[str]:
        """The corpora, one or several."""
        return [self.corpus] if isinstance(self.corpus, str) else self.corpus


class ValidationRecipe(Section):
    """Words that decide while a run goes on; never a test set."""

    corpus: str
    words: int = Field(2000, gt=0, description="at most this many, evenly spread over the corpus")


class DataRecipe(Section):
    """The streams. An objective says which of labeled and unlabeled it wants."""

    labeled: StreamRecipe | None = None
    unlabeled: StreamRecipe | None = None
    validation: ValidationRecipe | None = None


class OptimizerRecipe(Section):
    """Update rule and learning-rate schedule; the defaults are those of CCR (methods.md §4)."""

    name: Literal["adamw", "adam", "adadelta", "sgd"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.01, ge=0)
    schedule: Literal["one_cycle", "step", "constant"] = "one_cycle"
    warmup_fraction: float = Field(0.3, gt=0, lt=1, description="one_cycle: share of the steps in which the rate rises")
    initial_division: float = Field(20.0, gt=0, description="one_cycle: learning_rate / this is the first rate")
    final_division: float = Field(1000.0, gt=0, description="one_cycle: the first rate / this is the last")
    decay_at: list[float] = Field([0.6, 0.8], min_length=1, description="step: shares of the run after which the rate falls, in rising order")
    decay_factor: float = Field(0.1, gt=0, lt=1, description="step: what the rate is multiplied by each time")
    gradient_clip: float = Field(5.0, gt=0, description="norm to which the gradient is clipped")
    non_finite: Literal["stop", "skip"] = Field("stop", description="what a loss or a gradient that is not finite does: end the run, or leave the step "
                                                "out and count it")

    @field_validator("decay_at")
    @classmethod
    def _rising(cls, value: list[float]) -> list[float]:
        if not all(before < after for before, after in pairwise([0, *value, 1])):
            raise ValueError(f"expected shares between 0 and 1 in rising order, such as [0.6, 0.8], found {value}")
        return value


class TrainingRecipe(Section):
    """How long, on what, and how often something is kept."""

    steps: int | None = Field(None, gt=0, description="none: as many as `minutes` are enough for, or else 20 epochs, from 500 to 100,000 steps; the run prints the "
                              "number, and keeps it when it goes on")
    minutes: float | None = Field(None, gt=0, description="about how long the run may take, in place of `steps`: the speed is measured before it begins")
    accumulate: int = Field(1, gt=0, description="batches per step")
    checkpoint_every: int = Field(500, gt=0, description="steps between checkpoints; the last step always has one")
    keep_checkpoints: int = Field(2, gt=0)
    log_every: int = Field(20, gt=0)
    validate_every: int | None = Field(None, gt=0, description="steps between validations; none: ten times a run")
    keep: Literal["best", "last"] = Field("best", description="which model a run leaves where it has validation words: that of the validation that read the "
                                          "most of them (of as many, the one with the nearer readings, or the later), or that of the last step")
    patience: int | None = Field(None, gt=0, description="validations without more words read, or as many more nearly, after which the run ends; none: it takes all its steps")
    workers: int = Field(1, gt=0, description="processes of data-parallel training")
    cpus_per_worker: float = Field(1.0, gt=0)
    threads_per_worker: int | None = Field(None, gt=0, description="none: the machine's cores divided among its workers, less one that reads")
    gpu: bool | None = Field(None, description="none: a GPU per worker if this machine or the cluster has them; a cluster that grows on demand must be told")
    precision: Literal["auto", "float32", "bf16"] = Field("auto", description="auto: bf16 on a GPU that has it, else float32")
    freeze: Literal["encoder"] | None = Field(None, description="encoder: all but the decoder rests, batch normalization too, and the decoder begins "
                                              "anew: the decoder evaluation of SeqCLR and PerSec")
    sync_batchnorm: bool = Field(False, description="take batch normalization's statistics over the batches of all workers, not of each; of several "
                                 "workers on GPUs")
    compile: bool = Field(False, description="torch.compile the objective; the first step then takes a minute or more")
    max_failures: int = Field(2, ge=0, description="how many times lost workers are replaced without a new checkpoint in between")

    @model_validator(mode="after")
    def _one_length(self) -> "TrainingRecipe":
        if self.steps is not None and self.minutes is not None:
            raise ValueError(f"training.minutes: expected no training.steps beside it, found {self.steps:,}: leave one of them out, as with training.steps=null")
        return self

    @property
    def steps_between_validations(self) -> int:
        """As `validate_every` says, or a tenth of the run."""
        return self.validate_every or max(1, self.steps // 10)


class SearchRecipe(Section):
    """How the values of one searched field are drawn: exactly one of the first five says it."""

    uniform: tuple[float, float] | None = Field(None, description="evenly between two numbers, such as [0.05, 0.95]")
    loguniform: tuple[PositiveFloat, PositiveFloat] | None = Field(None, description="evenly in the logarithm, such as [0.1, 10]")
    log_complement: tuple[float, float] | None = Field(None, description="for rates near 1: 1 - value evenly in the logarithm, such as [0.9, 0.9999]")
    integer: tuple[int, int] | None = Field(None, description="a whole number, both ends included")
    choice: list[bool | int | float | str] | None = Field(None, min_length=2, description="one of these")
    when: dict[str, Any] = Field({}, description="only beside these values of other fields, such as {objective.mapping: window}, or one of a list of them")

    @model_validator(mode="after")
    def _one_kind(self) -> "SearchRecipe":
        given = [name for name in ("uniform", "loguniform", "log_complement", "integer", "choice") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(f"expected one of uniform, loguniform, log_complement, integer, choice, found {' and '.join(given) or 'none of them'}")
        if given != ["choice"]:
            low, high = getattr(self, given[0])
            if not low < high:
                raise ValueError(f"{given[0]}: expected [least, greatest], found [{low:g}, {high:g}]")
            if given == ["log_complement"] and not (0 <= low and high < 1):
                raise ValueError(f"log_complement: expected two numbers from 0 to below 1, found [{low:g}, {high:g}]")
        return self


class Recipe(Section):
    """One run."""

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100, description="the run's name, and its folder's")
    seed: int = Field(0, ge=0)
    recognizer: RecognizerRecipe
    objective: dict[str, Any]
    data: DataRecipe
    optimizer: OptimizerRecipe = OptimizerRecipe()
    training: TrainingRecipe = TrainingRecipe()
    initialize_from: str | None = Field(None, description="a run or a model folder whose weights to start from")
    runs: str = Field("runs", description="folder or URI that holds the runs")
    search: dict[str, SearchRecipe] = Field({}, description="what `textray tune` varies: fields by their dotted paths, such as objective.ema_decay: {log_complement: [0.9, 0.9999]}; "
                                            "a run itself takes no notice of it")

    @field_validator("objective")
    @classmethod
    def _objective(cls, value: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        name = value.get("name")
        if info.context:
            _check_names(value)
            return value
        from models.objectives import objective_named
        try:
            kind = objective_named(str(name))
        except ValueError as problem:
            raise ValueError(f"objective.name is {name!r}; {problem}") from None
        try:
            options = options_of(kind)(**{key: entry for key, entry in value.items() if key != "name"})
        except ValidationError as problem:
            keys = ["name", *options_of(kind).model_fields]
            raise ValueError("; ".join(_sentence(error, ("objective",), keys) for error in problem.errors())) from None
        return {"name": name, **options.model_dump()}

    @property
    def charset(self) -> Charset:
        """The characters that the recognizer writes."""
        return Charset.named(self.recognizer.charset)

    def to_yaml(self) -> str:
        """The whole recipe with every default written out."""
        tree = self.model_dump(mode="json", exclude=None if self.search else {"search"})
        return yaml.safe_dump(tree | ({"search": {name: axis.model_dump(mode="json", exclude_defaults=True) for name, axis in self.search.items()}} if self.search else {}),
                              sort_keys=False, allow_unicode=True)

    @property
    def digest(self) -> str:
        """A short hash of the whole recipe: equal for equal computations, or for equal searches."""
        return hashlib.sha256(self.to_yaml().encode()).hexdigest()[:16]


def _check_names(objective: dict[str, Any]) -> None:
    """ValueError for the objective's name or one of its keys, as far as the sources tell."""
    name = str(objective.get("name"))
    if name in names.objectives():
        keys = ["name", *names.fields_of(name)]
        unknown = [f"there is no key 'objective.{key}': {nearest(str(key), keys)}" for key in objective if key not in keys]
        if unknown:
            raise ValueError("; ".join(unknown))
    elif ".py:" not in name and name not in (installed := names_of("objectives")):
        near = difflib.get_close_matches(name, [*names.objectives(), *installed], n=1, cutoff=0.5)
        known = f"did you mean {near[0]!r}?" if near else "known: " + ", ".join([*names.objectives(), *installed, "FILE.py:CLASS"])
        raise ValueError(f"objective.name is {objective.get('name')!r}; {known}")


def _parameters(function) -> dict[str, inspect.Parameter]:
    return {name: parameter for name, parameter in inspect.signature(function, eval_str=True).parameters.items()
            if parameter.kind is inspect.Parameter.KEYWORD_ONLY}


def options_of(objective: type) -> type[BaseModel]:
    """A typed section from an objective's keyword-only arguments."""
    empty = inspect.Parameter.empty  # the user's own may lack annotations, and fields without a default are asked for
    fields = {name: (Any if parameter.annotation is empty else parameter.annotation, ... if parameter.default is empty else parameter.default)
              for name, parameter in _parameters(objective.__init__).items()}
    return create_model(objective.__name__, __base__=Section, **fields)


def load_recipe(path: str | Path, overrides: list[str] = ()) -> Recipe:
    """Read a recipe file, at a path or URI, or one that comes with textray, by its name, and apply `key=value` overrides.

    Raises:
        BadInput: no such file, not YAML, an unknown key (names the nearest), or a value of the wrong type.
    """
    file = str(path)
    try:
        data = _read(file)
    except (FileNotFoundError, NotADirectoryError):
        known = {each.name: each for each in packaged()} if re.fullmatch(r"(recipes/)?[A-Za-z0-9_]+(\.yaml)?", file) else {}
        stem = Path(file).name.removesuffix(".yaml")
        if stem not in known:
            near = difflib.get_close_matches(stem, known, n=1, cutoff=0.7)
            hint = f"did you mean {near[0]!r}, which comes with textray?" if near else "`textray recipes` lists those that come with textray"
            raise BadInput(f"expected a recipe file, found nothing at {file}; {hint}") from None
        data = known[stem].text.encode()
    except OSError as problem:
        raise BadInput(f"{file}: expected a recipe file, found one that cannot be read ({problem.strerror}); correct it") from None
    return parse_recipe(overridden(parse_yaml(data, file, "correct it; `textray recipes` lists some that are right"), overrides), file)


def _read(file: str) -> bytes:
    if "://" not in file:
        return Path(file).read_bytes()
    from pipelines.corpus import storage  # with pyarrow, which takes its time
    return storage.read_bytes(file)


def parse_recipe(tree: dict[str, Any], where: str = "recipe") -> Recipe:
    """Check a recipe given as nested dictionaries."""
    try:
        Recipe.model_validate(tree, context={"names alone": True})
        return Recipe.model_validate(tree)
    except ValidationError as problem:
        sentences = [_sentence(error, (), _keys_beside(error["loc"])) for error in problem.errors()]
        raise BadInput(f"{where}: " + "; ".join(sentences)) from None


def overridden(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """A copy of nested dictionaries with `key=value` overrides. Raises BadInput for one that is none."""
    changed = copy.deepcopy(dict(tree))
    for override in overrides:
        _override(changed, override)
    return changed


def _override(tree: dict[str, Any], override: str) -> None:
    key, separator, text = override.partition("=")
    if not separator or not key:
        raise BadInput(f"expected key=value (such as training.steps=100), found {override!r}")
    *path, last = key.split(".")
    for name in path:
        if not isinstance(tree.setdefault(name, {}), dict):
            raise BadInput(f"{override!r}: {name} holds a single value, not further keys")
        tree = tree[name]
    try:
        tree[last] = yaml.safe_load(text)
    except yaml.YAMLError:
        raise BadInput(f"{override!r}: the value is not YAML") from None
    if isinstance(tree[last], str) and _is_number(tree[last]):
        tree[last] = float(tree[last])  # YAML reads 1e-3 as a string, users mean the number


def _is_number(text: str) -> bool:
    try:
        return bool(text) and text[0] in "+-.0123456789" and "e" in text.lower() and float(text) == float(text)
    except ValueError:
        return False


def _sentence(error: dict[str, Any], prefix: tuple[str, ...], beside: list[str]) -> str:
    """One error of pydantic's as a sentence; `beside` are the keys that the section of the error may have."""
    location = [*prefix, *map(str, error["loc"])]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        return f"there is no key {key!r}: {nearest(location[-1], beside)}"
    if error["type"] == "missing":
        return f"the key {key!r} is missing"
    message = error["msg"].removeprefix("Value error, ")
    if error["type"] == "value_error":
        return message if message.startswith(key) or f"{key}." in message else f"{key}: {message}"
    return f"{key}: {message[0].lower()}{message[1:]}, found {error['input']!r}"


def _keys_beside(location: tuple) -> list[str]:
    """The keys of the section in which a key at `location` stands."""
    section: Any = Recipe
    for part in location[:-1]:
        if section is not None and part not in section.model_fields:
            continue  # a name that the user chose, such as a searched field's
        field = section.model_fields.get(part) if isinstance(section, type) and issubclass(section, BaseModel) else None
        kinds = [] if field is None else [field.annotation, *getattr(field.annotation, "__args__", ())]
        section = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), None)
    return [] if section is None else list(section.model_fields)

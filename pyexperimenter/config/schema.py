"""Sections, keys and types of the YAML file; the JSON Schema for editors is derived from them.

The models here mirror the file; `build` turns them into the dataclasses of `model`.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Annotated, Any, ClassVar, Literal, NoReturn

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Discriminator,
    Field,
    PlainValidator,
    Tag,
    WithJsonSchema,
    model_validator,
)
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaMode, JsonSchemaValue
from pydantic_core import PydanticCustomError, core_schema
from typing_extensions import TypeAliasType

from pyexperimenter.config.messages import nearest
from pyexperimenter.config.model import ExecutionConfig, PrimaryConfig, ReplicationConfig
from pyexperimenter.config.names import LOGTABLE_COLUMNS, SIDE_TABLES, TABLE_COLUMNS, module_and_function
from pyexperimenter.config.source import plain
from pyexperimenter.durations import DURATION_PATTERN, seconds
from pyexperimenter.fieldtypes import TYPE_NAMES, FieldType, in_any_case, type_pattern
from pyexperimenter.grid import Design
from pyexperimenter.jsonable import shown, unwrap


class Section(BaseModel):
    """A section of the file. Its keys are case-insensitive; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    keeps_texts: ClassVar[frozenset[str]] = frozenset()
    """The keys with values whose numbers may be meant as texts, or with sections that have them."""

    @model_validator(mode="before")
    @classmethod
    def _spell_keys(cls, data: Any) -> Any:
        """Spell the keys as the model does; read null as an empty section."""
        if data is None:
            return {}
        if not isinstance(data, Mapping):
            return data
        known = {spelling.casefold(): spelling for spelling in cls.spellings()}
        result: dict[str, Any] = {}
        for key, value in data.items():
            spelling = known.get(str(key).casefold())
            if spelling is None:
                # The message does not quote the key, which may be a secret. It is in the path, if it may be shown.
                names = ", ".join(known.values())
                hint = _hint(str(key).casefold(), known) or nearest(key, known.values())
                _refuse("UnknownKeyError", f"unknown key{hint} (choose from {names})", key=key)
            if spelling in result:
                _refuse("DuplicateKeyError", f"{spelling} appears twice in this section; delete one", key=key)
            result[spelling] = value if spelling in cls.keeps_texts else plain(value)
        return result

    @classmethod
    def spellings(cls) -> list[str]:
        """Return the keys that this section may have, spelled as in the documentation."""
        return [field.alias or name for name, field in cls.model_fields.items()]


_MEANT = {"end": "stop", "to": "stop", "from": "start", "begin": "start", "n": "num", "count": "num", "log": "scale"}
"""What is often written -> the key that is meant, if the section has it."""


def _hint(key: str, known: Mapping[str, str]) -> str:
    """Return a hint for a key that another section has, or that other tools call so; or an empty string."""
    if _MEANT.get(key) in known:
        return f"; did you mean {_MEANT[key]!r}?"
    sections: dict[str, type[Section]] = {"Database.table": Table, "Database": Database, "Execution": Execution}
    sections |= {"Analysis": Analysis, "PY_EXPERIMENTER": Experiment}
    places = [name for name, section in sections.items() if key in map(str.casefold, section.spellings())]
    return f"; it belongs into the section {places[0]}" if places else ""


_Refusal = Literal[
    "DuplicateKeyError", "InvalidTypeError", "InvalidValuesInConfiguration", "MissingLogTableError", "UnknownKeyError"
]


def _refuse(error: _Refusal, message: str, **context: Any) -> NoReturn:
    """Reject a value, or the key passed as `key`; `error` is the name of the exception that the user gets."""
    raise PydanticCustomError(error, "{message}", {"message": message, **context})


# Single values


# Types of servers and of Python for which there is only JSON.
_STRUCTURES = (
    *("ARRAY", "DICT", "LIST", "OBJECT", "TUPLE", "VECTOR"),
    *("BOX", "CIRCLE", "GEOMETRY", "GEOMETRYCOLLECTION", "LINE", "LINESTRING", "LSEG", "MULTILINESTRING", "MULTIPOINT"),
    *("MULTIPOLYGON", "PATH", "POINT", "POLYGON"),
)


def _parse_type(declaration: Any) -> FieldType:
    if not isinstance(declaration, str):
        _refuse("InvalidTypeError", f"{shown(declaration)} is not a type; write one such as INT or VARCHAR(255)")
    try:
        return FieldType.parse(declaration)
    except ValueError:
        name = declaration.upper().partition("(")[0].strip()
        # A name that is only somewhat similar means something else: POINT is not an INT.
        hint = "; write JSON" if name in _STRUCTURES else nearest(name, TYPE_NAMES, cutoff=0.8)
        _refuse("InvalidTypeError", f"{declaration!r} is not a valid type{hint} (choose from {', '.join(TYPE_NAMES)})")


def _parse_duration(value: Any) -> float:
    try:
        return seconds(value)
    except ValueError as error:
        _refuse("InvalidTypeError", str(error))


def _parse_number(value: Any) -> int | float:
    """Accept a number, or a string that contains one, as from an environment variable."""
    value = unwrap(value)
    if isinstance(value, str):
        for number in (int, float):
            with suppress(ValueError):
                return number(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        return value
    _refuse("InvalidTypeError", f"{shown(value)} is not a number")


def _no_boolean(value: Any) -> Any:
    # Pydantic accepts True as 1, which is hardly what is meant.
    return _refuse("InvalidTypeError", f"{value} is not an integer") if isinstance(value, bool) else value


def _parse_n_jobs(value: int) -> int:
    if value < -1 or value == 0:
        _refuse("InvalidTypeError", f"{value} is not a valid number of workers; give 1 or more, or -1 for one per core")
    return value


def _check_function(value: str) -> str:
    try:
        module_and_function(value)
    except ValueError as error:
        _refuse("InvalidTypeError", str(error))
    return value


_SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2", "SIGHUP")


def _parse_signals(value: Any) -> tuple[str, ...]:
    names = value if isinstance(value, list) else [value]
    for name in names:
        if name not in _SIGNALS:
            _refuse(
                "InvalidTypeError",
                f"{shown(name)} is not a signal that can stop a worker; choose from {', '.join(_SIGNALS)}",
            )
    return tuple(names)


_PROVIDERS = {
    "sqlite": "sqlite",
    "mysql": "mysql",
    "mariadb": "mysql",
    "postgresql": "postgresql",
    "postgres": "postgresql",
}
PORTS = {"mysql": 3306, "postgresql": 5432}
"""Provider -> the default port of its servers."""


def _as_text(value: Any) -> Any:
    return os.fspath(value) if isinstance(value, os.PathLike) else value


def _spell_provider(value: Any) -> Any:
    return _PROVIDERS.get(value.lower(), value) if isinstance(value, str) else value


_INTERPOLATION = {"type": "string", "pattern": r"\$\{.+\}", "description": "A value from elsewhere, as in ${VARIABLE}."}


def _text(pattern: str, message: str) -> dict[str, Any]:
    """Return the JSON Schema of a string; editors show the message where it does not match."""
    return {"type": "string", "pattern": f"{pattern}|{_INTERPOLATION['pattern']}", "patternErrorMessage": message}


def _any_of(names: Iterable[str]) -> str:
    """Return a pattern of these names in upper and lower case."""
    return f"^(?:{'|'.join(map(in_any_case, sorted(names)))})$"


PathText = Annotated[str, BeforeValidator(_as_text)]
# An alias, so that its long pattern is in the JSON Schema once.
ColumnType = TypeAliasType(
    "ColumnType",
    Annotated[
        FieldType,
        PlainValidator(_parse_type),
        WithJsonSchema(
            {
                "description": f"SQL type: one of {', '.join(TYPE_NAMES)}; with a size in VARCHAR(n) "
                "and DECIMAL(p, s).",
                **_text(type_pattern(), f"This is not a SQL type; choose from {', '.join(TYPE_NAMES)}."),
                "examples": ["INT", "DOUBLE", "VARCHAR(255)", "BOOL", "LONGTEXT"],
            }
        ),
    ],
)
Number = Annotated[int | float, PlainValidator(_parse_number), WithJsonSchema({"type": ["number", "string"]})]
Whole = Annotated[int, BeforeValidator(_no_boolean)]
Signals = Annotated[
    tuple[str, ...],
    PlainValidator(_parse_signals),
    WithJsonSchema(
        {
            "type": ["array", "string"],
            "items": {"anyOf": [{"enum": list(_SIGNALS)}, _INTERPOLATION]},
            "pattern": "|".join((*_SIGNALS, _INTERPOLATION["pattern"])),
        }
    ),
]
Duration = Annotated[
    float,
    PlainValidator(_parse_duration),
    WithJsonSchema(
        {
            **_text(DURATION_PATTERN, "This is not a duration; write 60s, 5m, 2h, 1d or 1h30m."),
            "type": ["number", "string"],
            "exclusiveMinimum": 0,
            "examples": ["60s", "5m", "2h", "1d", "1h30m", 90],
        }
    ),
]
Scalar = Annotated[Any, WithJsonSchema({"type": ["string", "number", "boolean", "null"]})]
Names = Annotated[list[str], Field(min_length=1)]
NameOrNames = Annotated[
    tuple[str, ...],
    BeforeValidator(lambda names: [names] if isinstance(names, str) else names),  # a single name needs no brackets
    WithJsonSchema({"anyOf": [{"type": "string"}, {"type": "array", "items": {"type": "string"}}]}),
]
Mappings = list[dict[str, Any]]


def _empty_if_null(value: Any) -> Any:
    return {} if value is None else value


def _options_of_programs(value: Any) -> Any:
    return {} if value is None else plain(value, for_programs=True)


def _not_reserved(names: Iterable[str]) -> Any:
    """Return what a mapping of names has in the JSON Schema, so that it refuses those of the library."""
    pattern, message = f"^(?!{_any_of(names)})", "This name is reserved for the library."
    return Field(json_schema_extra={"propertyNames": {"pattern": pattern, "patternErrorMessage": message}})


Columns = Annotated[dict[str, ColumnType], BeforeValidator(_empty_if_null), _not_reserved(TABLE_COLUMNS)]


# Keyfields


class Stepped(Section):
    """start, start + step, ... up to but not including stop; up to and including it if `inclusive`."""

    start: Number = Field(description="First value.")
    stop: Number = Field(description="End of the range, excluded unless 'inclusive'.")
    step: Number = Field(1, description="Difference between two values; negative for a descending range.")
    inclusive: bool = Field(False, description="Include the stop.")


class Spaced(Section):
    """`num` values from start to stop, both included."""

    start: Number = Field(description="First value.")
    stop: Number = Field(description="Last value.")
    num: Whole = Field(description="Number of values.")
    scale: Literal["linear", "log"] = Field("linear", description="Evenly spaced, or evenly spaced on a log scale.")


class Sampled(Section):
    """`num` random values, the same on every machine."""

    sample: Literal["uniform", "loguniform", "normal", "integers"] = Field(description="The distribution.")
    low: Number | None = Field(None, description="Smallest value (not for normal).")
    high: Number | None = Field(None, description="Largest value (not for normal); included for integers.")
    mean: Number | None = Field(None, description="Mean of a normal distribution.")
    std: Number | None = Field(None, description="Standard deviation of a normal distribution.")
    num: Whole = Field(description="Number of values.")
    seed: Whole = Field(0, description="Seed of the random numbers.")


def _kind_of_values(value: Any) -> str:
    if isinstance(value, Mapping):
        keys = {str(key).casefold() for key in value}
        return "<sample>" if "sample" in keys else "<num>" if keys & {"num", "scale"} else "<step>"
    return "<list>" if isinstance(value, (list, tuple)) else "<value>"


Values = Annotated[
    Annotated[Stepped, Tag("<step>")]
    | Annotated[Spaced, Tag("<num>")]
    | Annotated[Sampled, Tag("<sample>")]
    | Annotated[list[Any], Tag("<list>")]
    | Annotated[Scalar, Tag("<value>")],
    Discriminator(_kind_of_values),
]


class Keyfield(Section):
    """An input of the experiments: its type, its values, and the condition under which it is set."""

    keeps_texts = frozenset({"values", "when"})

    type: ColumnType
    values: Values = Field(
        None, description="A list, a single value, a range or a sample. If omitted, only rows set this keyfield."
    )
    when: dict[str, Any] | None = Field(
        None, description="Set only where these keyfields have one of these values; NULL elsewhere."
    )


def _check_form(value: Any) -> Any:
    if not isinstance(value, (str, Mapping)):
        _refuse(
            "InvalidTypeError", f"{shown(value)} is not a keyfield; write {{type: INT, values: [1, 2]}} or only a type"
        )
    return value


def _kind_of_keyfield(value: Any) -> str:
    return "<type>" if isinstance(value, str) else "<keyfield>"


KeyfieldOrType = Annotated[
    Annotated[Keyfield, Tag("<keyfield>")] | Annotated[ColumnType, Tag("<type>")],
    Discriminator(_kind_of_keyfield),
    BeforeValidator(_check_form),
]


# Sections


class Requirement(Section):
    """Resources that experiments need."""

    keeps_texts = frozenset({"when"})

    when: dict[str, Any] = Field(
        {}, description="Which experiments: keyfield -> value or list of values. If omitted, all."
    )
    resources: dict[str, Annotated[Number, Field(ge=0)]] = Field(
        min_length=1, description="What they need: name -> amount, as in {gpus: 1}."
    )


def _parse_shuffle(value: Any) -> int | None:
    if value is False:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        _refuse("InvalidTypeError", f"{shown(value)} is not a seed; write an integer, or false for the grid's order")
    return value


Shuffle = Annotated[
    int | None,
    PlainValidator(_parse_shuffle),
    WithJsonSchema({"anyOf": [{"type": "integer"}, {"const": False}, _INTERPOLATION]}),
]


class Blocks(Section):
    """Which experiments are compared with each other, so that they are executed one after the other."""

    blocks: NameOrNames = Field(
        min_length=1, description="Keyfields whose combinations are the blocks, such as [dataset, seed]."
    )
    compare: NameOrNames = Field((), description="Keyfields whose values are compared in a block, such as method.")
    shuffle: Shuffle = Field(Design.shuffle, description="Seed of the order of the blocks; false for that of the grid.")


class Precision(Section):
    """The interval that ends a replication."""

    ci95: Annotated[Number, Field(gt=0)] = Field(description="Its half width, in units of the resultfield.")


class Replicate(Section):
    """How many seeds a study gets: as many as it takes until intervals are narrow enough."""

    keeps_texts = frozenset({"reference"})

    over: str = Field(description="Keyfield whose values are the replicates, such as seed.")
    of: str = Field(description="Resultfield that is averaged.")
    until: Precision = Field(description="The wanted precision, as in {ci95: 0.005}.")
    paired: bool = Field(
        ReplicationConfig.paired, description="Intervals of the differences between what is compared, or of means."
    )
    reference: Scalar = Field(None, description="The value that all others are compared with; if omitted, all pairs.")
    min: Whole = Field(ReplicationConfig.min, ge=10, description="Number of replicates at first, at least 10.")
    max: Whole | None = Field(None, description="Number of replicates at most; by default, all values of the keyfield.")
    step: Whole = Field(ReplicationConfig.step, ge=1, description="Number of replicates added at a time.")


class Table(Section):
    """The experiment table."""

    keeps_texts = frozenset({"keyfields", "exclude", "include", "requires", "replicate"})

    name: str = Field(description="Name of the table.")
    keyfields: Annotated[dict[str, KeyfieldOrType], _not_reserved(TABLE_COLUMNS)] = Field(
        min_length=1, description="The inputs, one column each. All combinations of their values form the grid."
    )
    exclude: Mappings = Field([], description="Combinations to leave out: keyfield -> value or list of values.")
    include: Mappings = Field([], description="Single rows to add to the grid; omitted keyfields are NULL.")
    zip: list[Names] = Field([], description="Lists of keyfields whose values are paired instead of crossed.")
    design: Blocks | None = Field(None, description="How the grid is divided into blocks, which are run one by one.")
    replicate: Replicate | None = Field(None, description="How many values of a keyfield are used: until it is enough.")
    requires: list[Requirement] = Field([], description="Resources that some experiments need, such as {gpus: 1}.")
    resultfields: Columns = Field({}, description="The outputs, one column each.")
    result_timestamps: bool = Field(
        False, description="For each resultfield, add a column with the time when it was written."
    )
    resultfields_timestamps: bool | None = Field(
        None,
        alias="resultfields.timestamps",
        description="Deprecated name of result_timestamps.",
        json_schema_extra={"deprecated": True},
    )
    database: Any = Field(
        None, description="Ignored. The database is named outside of the table.", json_schema_extra={"deprecated": True}
    )

    def keyfield(self, name: str) -> Keyfield:
        """Return a keyfield, even if the file gives only its type."""
        entry = self.keyfields[name]
        return entry if isinstance(entry, Keyfield) else Keyfield.model_construct(_fields_set={"type"}, type=entry)


def _parse_logtable(columns: Any) -> Any:
    if columns is None or columns == {}:
        _refuse("MissingLogTableError", "the logtable has no columns; name at least one, as in {loss: DOUBLE}")
    return columns


LogTable = Annotated[dict[str, ColumnType], BeforeValidator(_parse_logtable), _not_reserved(LOGTABLE_COLUMNS)]
LogTables = Annotated[dict[str, LogTable], BeforeValidator(_empty_if_null), _not_reserved(SIDE_TABLES)]


class Database(Section):
    """The database and its tables."""

    keeps_texts = frozenset({"table"})

    provider: Annotated[
        Literal["sqlite", "mysql", "postgresql"],
        BeforeValidator(_spell_provider),
        WithJsonSchema(
            {
                "anyOf": [
                    {"enum": list(_PROVIDERS)},
                    {**_INTERPOLATION, "pattern": f"{_any_of(_PROVIDERS)}|{_INTERPOLATION['pattern']}"},
                ]
            }
        ),
    ] = Field(description="sqlite for one machine; mysql (also for MariaDB) or postgresql for many.")
    database: PathText = Field(
        min_length=1, description="Name of the database on the server; for sqlite, the path of the file."
    )
    use_ssh_tunnel: bool | None = Field(None, description="Connect to the server through an SSH tunnel.")
    use_ssh: bool | None = Field(
        None, description="Deprecated name of use_ssh_tunnel.", json_schema_extra={"deprecated": True}
    )
    table: Table
    logtables: LogTables = Field({}, description="Tables for intermediate values: name -> columns.")
    files: PathText | bool = Field(
        False,
        description="Folder for files of the runs; true for one beside the database, or in the working directory.",
    )


_DEFAULT = ExecutionConfig()  # the defaults are in the model, which workers import without pydantic


class Execution(Section):
    """How workers run experiments."""

    isolation: Literal["process", "none"] = Field(
        _DEFAULT.isolation, description="Run experiments in child processes, or in the worker itself."
    )
    time_limit: Duration | None = Field(_DEFAULT.time_limit, description="Experiments that take longer are killed.")
    experiments_per_process: Whole | None = Field(
        _DEFAULT.experiments_per_process,
        ge=1,
        description="After this many experiments, a worker goes on in a fresh process.",
    )
    min_time: Duration | None = Field(
        _DEFAULT.min_time, description="Minimum time that must be left to start an experiment."
    )
    retries: Whole = Field(_DEFAULT.retries, ge=0, description="How often a failed experiment is retried.")
    retry_on: NameOrNames = Field(
        _DEFAULT.retry_on, description="Retry only after these exceptions; if empty, after all."
    )
    no_retry_on: NameOrNames = Field(_DEFAULT.no_retry_on, description="Never retry after these exceptions.")
    max_lost: Whole = Field(
        _DEFAULT.max_lost, ge=1, description="An experiment that loses its worker this often is an error."
    )
    heartbeat: Duration = Field(_DEFAULT.heartbeat, description="How often a worker reports that it is alive.")
    lease: Duration = Field(_DEFAULT.lease, description="A worker without a heartbeat for this long counts as dead.")
    grace: Duration = Field(
        _DEFAULT.grace, description="Time that a running experiment has to finish when its worker is asked to stop."
    )
    signals: Signals = Field(_DEFAULT.signals, description="Signals that ask a worker to stop.")
    stop_after_errors: Whole = Field(
        _DEFAULT.stop_after_errors, ge=0, description="A worker stops after this many errors in a row; 0: never."
    )
    echo: bool = Field(_DEFAULT.echo, description="Show the output of experiments while they run.")
    max_outage: Duration = Field(
        _DEFAULT.max_outage, description="How long a worker waits for a database that cannot be reached."
    )
    journal: PathText | None = Field(
        _DEFAULT.journal, description="Directory for results that could not be written to the database."
    )
    gpus: Whole = Field(
        _DEFAULT.gpus, ge=0, description="Number of GPUs per worker; CUDA_VISIBLE_DEVICES contains their IDs."
    )
    function: Annotated[str, AfterValidator(_check_function)] | None = Field(
        _DEFAULT.function,
        description="The experiment function for the command line, as module:function or file.py:function.",
        json_schema_extra={"pattern": r"^.+:[^:]+$|\$\{.+\}"},
    )


class Resampling(Section):
    """Random splits of a data set into a training and a test part."""

    test: Number = Field(description="Share of the test part, such as 0.3.")


class Primary(Section):
    """The test that is fixed before the first run. All other tests are exploratory."""

    value: NameOrNames = Field(min_length=1, description="Resultfields to test; several are one family.")
    by: str = Field(description="Keyfield whose levels are compared, such as the method.")
    blocks: NameOrNames = Field(min_length=1, description="Keyfields of the blocks, such as the data set.")
    better: Literal["max", "min"] | dict[str, Literal["max", "min"]] = Field(
        "max", description="What is better; for several resultfields, for each by its name."
    )
    over: NameOrNames = Field(PrimaryConfig.over, description="Keyfields to average over.")
    test: Literal["wilcoxon", "nemenyi"] = Field(PrimaryConfig.test, description="How pairs of levels are tested.")
    correction: Literal["holm", "shaffer"] = Field(
        PrimaryConfig.correction, description="How the p-values of pairs are adjusted."
    )
    failures: Literal["error", "worst", "drop"] = Field(
        PrimaryConfig.failures, description="What failed runs count as; worst gives them the worst rank."
    )


class Analysis(Section):
    """What the tables, tests and figures of the results must know about the study."""

    unit: NameOrNames = Field(
        (), description="Keyfields of what is independent, such as the data set; seed if each run is."
    )
    resampling: Resampling | None = Field(
        None, description="If seeds are random splits of a data set: the share of the test part."
    )
    primary: Primary | None = Field(None, description="The test that is fixed before the first run.")


class Experiment(Section):
    """The configuration of an experiment."""

    keeps_texts = frozenset({"Database", "Cluster"})

    n_jobs: Annotated[Whole, AfterValidator(_parse_n_jobs)] = Field(
        1, description="Number of workers; -1: one per core."
    )
    database: Database = Field(alias="Database")
    logtables: LogTables = Field({}, description="The same as logtables in the section Database.")
    execution: Execution = Field({}, alias="Execution", validate_default=True)
    analysis: Analysis = Field(
        {}, alias="Analysis", validate_default=True, description="What the analysis must know about the study."
    )
    cluster: Annotated[dict[str, dict[str, Any]], BeforeValidator(_options_of_programs)] = Field(
        {}, alias="Cluster", description="Profiles for submitting workers: name -> option -> value."
    )
    custom: Annotated[dict[Any, Any], BeforeValidator(_empty_if_null)] = Field(
        {}, alias="Custom", description="Fixed values, passed to every run."
    )
    codecarbon: Annotated[dict[str, Any] | None, BeforeValidator(_empty_if_null)] = Field(
        None, alias="CodeCarbon", description="Options of CodeCarbon; emissions are measured if this section exists."
    )


class ConfigFile(Section):
    """The configuration of PyExperimenter."""

    keeps_texts = frozenset({"PY_EXPERIMENTER"})

    experiment: Experiment = Field(alias="PY_EXPERIMENTER")


# JSON Schema


class _EditorSchema(GenerateJsonSchema):
    """Allows what the loader allows: ``${...}`` for anything, numbers and booleans as texts, an empty section."""

    def int_schema(self, schema: core_schema.IntSchema) -> JsonSchemaValue:
        return _or_text(super().int_schema(schema), r"^\s*[+-]?[\d_]+(\.0*)?\s*$")

    def bool_schema(self, schema: core_schema.BoolSchema) -> JsonSchemaValue:
        words = ("y", "yes", "n", "no", "t", "true", "f", "false", "on", "off", "0", "1")
        made = _or_text(super().bool_schema(schema), _any_of(words))
        return {**made, "type": [*made["type"], "integer"], "minimum": 0, "maximum": 1}

    def literal_schema(self, schema: core_schema.LiteralSchema) -> JsonSchemaValue:
        return {"anyOf": [super().literal_schema(schema), _INTERPOLATION]}

    def list_schema(self, schema: core_schema.ListSchema) -> JsonSchemaValue:
        return _or_text(super().list_schema(schema))

    def dict_schema(self, schema: core_schema.DictSchema) -> JsonSchemaValue:
        return _or_text(super().dict_schema(schema))

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        made = _or_text(super().model_schema(schema))
        return made if "required" in made else _or_null(made)

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        made = super().function_before_schema(schema)
        return _or_null(made) if schema["function"]["function"] in (_empty_if_null, _options_of_programs) else made

    def tagged_union_schema(self, schema: core_schema.TaggedUnionSchema) -> JsonSchemaValue:
        return {"anyOf": super().tagged_union_schema(schema)["oneOf"]}  # ${...} is one of each


def _or_text(part: JsonSchemaValue, pattern: str | None = None) -> JsonSchemaValue:
    """Allow ``${...}``, and texts that match the pattern, in place of values of another type."""
    patterns = [_INTERPOLATION["pattern"]] + ([pattern] if pattern else [])
    return {**part, "type": [part["type"], "string"], "pattern": "|".join(patterns)}


def _or_null(part: JsonSchemaValue) -> JsonSchemaValue:
    return {**part, "type": [*part["type"], "null"]} if "type" in part else part  # an option may already be null


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) of the YAML file, with keys spelled as in the documentation."""
    mode: JsonSchemaMode = "validation"
    schema = ConfigFile.model_json_schema(by_alias=True, schema_generator=_EditorSchema, mode=mode)
    anchors = {r"^(x-|\.)": {"description": "A place for anchors, which is left alone."}}
    title = "PyExperimenter configuration"
    return {"$schema": GenerateJsonSchema.schema_dialect, **schema, "patternProperties": anchors, "title": title}

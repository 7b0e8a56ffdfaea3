"""Configuration files -> one frozen, validated `ExperimentConfig`; whatever is wrong raises, with its place.

The walk of a file: `document` (read it; `yaml_file` or `ini_file` -> plain data with line numbers) -> `interpolation`
(``${...}``) -> `schema` (which keys and types there are) -> `build` (names, domains, credentials -> the `model`).
"""

from pyexperimenter.config.load import json_schema, load_config
from pyexperimenter.config.model import (
    Credentials,
    DatabaseConfig,
    ExecutionConfig,
    ExperimentConfig,
    Secret,
    SshConfig,
    TableConfig,
    TlsConfig,
)

__all__ = [
    "Credentials",
    "DatabaseConfig",
    "ExecutionConfig",
    "ExperimentConfig",
    "Secret",
    "SshConfig",
    "TableConfig",
    "TlsConfig",
    "json_schema",
    "load_config",
]

"""Configuration files: read, checked and turned into a frozen `ExperimentConfig`; errors name file, line and key.

`document` reads a file into plain data with line numbers (by `yaml_file` or `ini_file`), `interpolation` resolves
``${...}``, `schema` checks keys and types, and `build` checks names, domains and credentials and makes the `model`.
"""

from pyexperimenter.config.load import json_schema, load_config, load_database
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
    "load_database",
]

"""Messages of the library in the words of the command line: commands and options instead of methods and arguments."""

from __future__ import annotations

import re

_WORDS = {
    r"create_table\(create_database=True\)": "pyexperimenter fill --create-database",
    r"(?:create_table|fill_table_from_config)\(\)": "pyexperimenter fill",
    r"reset_experiments\(ids=\[(\d+)\]\)": r"pyexperimenter reset --id \1",
    r"reset_experiments\('(\w+)'\)": r"pyexperimenter reset \1",
    r"migrate\(defaults=\{.*?\}\), None for NULL": "pyexperimenter migrate with --default NAME=VALUE for each, or null",
    r"(migrate|prune|sync)\(\)": r"pyexperimenter \1",
    r"execute\(\)": "pyexperimenter run",
    r"delete_table\(\)": "pyexperimenter delete",
    r"summarize\(\)": "pyexperimenter table",
    r"use fill_table_from_combination or fill_table_with_rows": "fill it with rows in Python",
    r"only_grid=True": "--only-grid",
    r"one, such as a score on validation data, or pass optimistic=True": "one, such as a score on validation data",
    r"failures=\{'([^']+)': ([^{}]*)\}": r"--failures \1=\2",
    r"(failures|pairing|unit|better)='?([\w.]+)'?": r"--\1 \2",
}


def in_commands(message: str) -> str:
    """Return a message with commands and options instead of methods and arguments.

    >>> in_commands("fix the cause and call reset_experiments('error')")
    'fix the cause and run pyexperimenter reset error'
    >>> in_commands("say what they count as: failures={'accuracy': 0.0}")
    'say what they count as: --failures accuracy=0.0'
    """
    for pattern, words in _WORDS.items():
        message = re.sub(rf"\b{pattern}", words, message)
    return re.sub(r"\bcall (?=pyexperimenter )", "run ", message)

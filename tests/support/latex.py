"""A real LaTeX, which compiles what the library renders."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.support.private_server import ServerUnavailable, find_program

_PACKAGES = "texlive-latex-recommended texlive-science"  # Debian's


class Latex:
    """The program pdflatex, with the packages that tables may need."""

    def __init__(self) -> None:
        self._program = find_program("pdflatex", _PACKAGES)
        files = [f"{package}.sty" for package in ("booktabs", "siunitx", "rotating")]
        if subprocess.run(["kpsewhich", *files], capture_output=True, check=False).returncode:
            raise ServerUnavailable(f"pdflatex lacks one of {', '.join(files)}; apt-get install {_PACKAGES}")

    def compile(self, preamble: str, snippets: Sequence[str], folder: Path) -> None:
        """Compile snippets as one document; an error of LaTeX is a failure of the test."""
        body = "\n\n".join(snippets)
        source = folder / "document.tex"
        source.write_text(
            f"\\documentclass{{article}}\n{preamble}\n\\begin{{document}}\n{body}\n\\end{{document}}\n",
            encoding="utf-8",
        )
        # Fonts that it makes are put into the home directory.
        done = subprocess.run(
            [self._program, "-interaction=nonstopmode", "-halt-on-error", source.name],
            cwd=folder,
            env={**os.environ, "HOME": str(folder)},
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:]

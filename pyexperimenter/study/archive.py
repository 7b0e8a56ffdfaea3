"""Archives: a zip file with all of a study, and the checksums of what is in it."""

from __future__ import annotations

import atexit
import hashlib
import shutil
import warnings
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath
from tempfile import mkdtemp
from typing import TYPE_CHECKING

from pyexperimenter.config.document import is_ini
from pyexperimenter.database.backends.sqlite import is_sqlite_file
from pyexperimenter.database.reader import ExperimentReader
from pyexperimenter.exceptions import CopyError, InvalidValueError
from pyexperimenter.machine.contents import Contents
from pyexperimenter.paths import absolute_path, written_whole

if TYPE_CHECKING:
    import pandas as pd

DATABASE = "study.db"
FILES = "files"
"""The folder of the files of runs."""
_CHECKSUMS = "SHA256SUMS"
_BEGIN = b"PK\3\4"
_BLOCK = 2**20


def archive_path(path: str | Path) -> Path:
    """Return where an archive will be.

    Raises
    ------
    InvalidValueError
        If the name is not that of a zip file, or the directory does not exist.
    """
    target = absolute_path(path)
    if target.suffix.lower() != ".zip":
        raise InvalidValueError(f"{target.name!r} is not the name of a zip file; let it end in .zip")
    if not target.parent.is_dir():
        raise InvalidValueError(f"the directory {target.parent} does not exist; create it first")
    return target


def is_archive(path: str | Path) -> bool:
    """Return whether a file is a zip file, complete or not."""
    if is_sqlite_file(path):  # which must not be opened here: see `_make_file`
        return False
    try:
        with open(path, "rb") as file:
            return file.read(len(_BEGIN)) == _BEGIN
    except (OSError, ValueError):
        return False


def members_of(
    reader: ExperimentReader, appendix: str, files: pd.DataFrame | None, database: Path
) -> Iterator[tuple[str, Path | bytes]]:
    """Yield the names of what is in an archive, and what it is.

    Parameters
    ----------
    reader : ExperimentReader
        Reads the copy of the study.
    appendix : str
        The appendix, in Markdown.
    files : pandas.DataFrame or None
        The files of the runs, as returned by `get_files`.
    database : Path
        The copy, which is a SQLite file.

    Warns
    -----
    UserWarning
        If files of runs are missing.
    """
    yield DATABASE, database
    yield "APPENDIX.md", appendix.encode()
    for number, text in enumerate(reader.configs(), 1):
        yield f"configurations/{number}.{'ini' if is_ini(text) else 'yml'}", text.encode()
    for name, diff in {event["hash"]: event["diff"] for event in reader.events("diff")}.items():
        yield f"diffs/{name}.diff", diff.encode()
    if files is None:
        return
    saved = files[files["role"] != "used"]
    paths = dict(zip(saved["sha256"], saved["path"], strict=True))
    if missing := [digest for digest, path in paths.items() if not path]:
        warnings.warn(f"files of runs are missing: {', '.join(missing)}", stacklevel=4)
    for digest, path in paths.items():
        if path:
            yield Contents(FILES).path(digest).as_posix(), Path(path)


def write_archive(target: Path, members: Iterable[tuple[str, Path | bytes]]) -> None:
    """Write files or bytes to a zip file under these names, with a list of checksums that ``sha256sum -c`` reads.

    Raises
    ------
    OSError
        If a file cannot be read, or the zip file not be written. An existing one is left unchanged then.
    """
    sums = []
    with written_whole(target) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, source in members:
            digest = hashlib.sha256()
            reading = BytesIO(source) if isinstance(source, bytes) else source.open("rb")
            with reading as data, archive.open(name, "w", force_zip64=True) as member:
                while block := data.read(_BLOCK):
                    digest.update(block)
                    member.write(block)
            sums.append(f"{digest.hexdigest()}  {name}\n")
        archive.writestr(_CHECKSUMS, "".join(sums))


def extracted(path: str | Path) -> Path:
    """Extract an archive to a folder that is removed when the process ends, and return the folder.

    Raises
    ------
    CopyError
        If it is not the archive of a study, is damaged or was changed.
    """
    source, folder = absolute_path(path), Path(mkdtemp(prefix="pyexperimenter-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    try:
        with zipfile.ZipFile(source) as archive:
            _extract(archive, folder)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError, KeyError) as error:
        raise CopyError(f"{source} is damaged, or not the archive of a study ({error}); get another copy") from error
    except CopyError as error:
        raise CopyError(f"{source}: {error}; get another copy") from None
    return folder


def _extract(archive: zipfile.ZipFile, folder: Path) -> None:
    lines = archive.read(_CHECKSUMS).decode().splitlines()
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    names = archive.namelist()
    if differing := {*names} ^ {*sums, _CHECKSUMS}:
        raise CopyError(f"it was changed: {min(differing)!r} was added or removed")
    if DATABASE not in sums or len(names) > len({*names}):
        raise CopyError("it is not the archive of a study")
    for name, digest in sums.items():
        parts = PurePosixPath(name).parts
        if not parts or name != "/".join(parts) or ".." in parts or {*name} & {*"\\:"}:
            raise CopyError(f"{name!r} would be extracted to another folder")
        path, found = folder / name, hashlib.sha256()
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(name) as member, path.open("xb") as file:
            while block := member.read(_BLOCK):
                found.update(block)
                file.write(block)
        if found.hexdigest() != digest:
            raise CopyError(f"{name!r} was changed: its SHA-256 is not that in {_CHECKSUMS}")

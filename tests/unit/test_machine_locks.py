"""A lock ends with its holder, even if the holder has started other processes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import tempfile
from pathlib import Path

import pytest

from pyexperimenter.machine import locks
from pyexperimenter.machine.locks import lock_file, own_directory, runtime_directory
from pyexperimenter.machine.system import file_of


def test_a_fork_does_not_keep_the_lock_of_a_killed_process(tmp_path: Path) -> None:
    file = tmp_path / "lock"
    told, tell = os.pipe()
    held, release = os.pipe()
    holder = os.fork()
    if not holder:
        os.close(release)
        lock_file(file)
        if os.fork():
            os.write(tell, b".")
        os.read(held, 1)
        os._exit(0)
    os.read(told, 1)
    assert lock_file(file) is None
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    lock = lock_file(file)
    assert lock is not None
    lock.release()
    for descriptor in (told, tell, held, release):
        os.close(descriptor)


def test_a_process_that_has_its_descriptor_does_not_keep_it(tmp_path: Path) -> None:
    """As every process that another thread starts has for a moment."""
    lock = lock_file(tmp_path / "lock")
    assert lock is not None
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, pass_fds=[lock._descriptor]):
        lock.release()
        again = lock_file(tmp_path / "lock")
        assert again is not None
        again.release()


@pytest.mark.parametrize("problem", [OSError(errno.ENOLCK, "no locks"), KeyboardInterrupt()])
def test_a_file_that_cannot_be_locked_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: BaseException
) -> None:
    """As on a file system without locks, where each worker tries again and again."""

    def refuse(descriptor: int, _: bool) -> None:
        asked.append(descriptor)
        raise problem

    asked: list[int] = []
    monkeypatch.setattr(locks, "lock", refuse)
    with pytest.raises(type(problem)):
        lock_file(tmp_path / "lock")
    assert [file_of(descriptor) for descriptor in asked] == [None]


def test_a_machine_may_lack_a_directory_for_temporary_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """As a container whose file system is read-only."""
    for variable in ("TMPDIR", "TEMP", "TMP"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setattr(tempfile, "_candidate_tempdir_list", lambda: ["/proc/self/fdinfo"])
    assert own_directory() is None


def test_a_missing_or_shared_runtime_directory_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = tmp_path / "runtime"
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(given))
    assert runtime_directory() == own_directory()
    given.mkdir(mode=0o700)
    assert runtime_directory() == given
    given.chmod(0o777)
    assert runtime_directory() == own_directory()

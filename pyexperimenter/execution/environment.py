"""The environment of a process: what its results may depend on besides the code and the inputs."""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from pyexperimenter.jsonable import to_json

_THREADS = ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB", "BLIS", "NUMBA", "TORCH")


@lru_cache(maxsize=1)
def environment() -> dict[str, Any]:
    """Return Python, platform, CPU, GPUs, versions of the installed packages, and the settings of threads.

    Returns
    -------
    dict
        ``hash``, which identifies all but ``imported``; ``python``, ``platform``, ``cpu`` (its model), ``cpus`` (how
        many this process may use), ``gpus`` (name and driver of each), ``packages`` (version by the name of each
        installed distribution), ``threads`` (environment variables that limit them) and ``imported`` (version by the
        name of each module that this process has imported and that says its version).
    """
    found: dict[str, Any] = {
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "platform": platform.platform(),
        "cpu": _cpu(),
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "gpus": _gpus(),
        "packages": dict(sorted(_packages())),
        "threads": {name: os.environ[name] for kind in _THREADS if (name := f"{kind}_NUM_THREADS") in os.environ},
    }
    # Not by getattr, which may run code of the module.
    versions = {
        name: getattr(module, "__dict__", {}).get("__version__")
        for name, module in sorted(sys.modules.items())
        if "." not in name
    }
    imported = {
        name: version
        for name, version in versions.items()
        if isinstance(version, str) and name not in sys.stdlib_module_names
    }
    return {"hash": hashlib.sha256(to_json(found).encode()).hexdigest()[:16], **found, "imported": imported}


def _packages() -> Iterator[tuple[str, str]]:
    """Yield the installed distributions, by the names of their directories, which is faster than to read them."""
    for folder in filter(os.path.isdir, sys.path[::-1]):  # the first on the path counts
        for entry in os.listdir(folder):
            stem, _, ending = entry.rpartition(".")
            if ending in ("dist-info", "egg-info"):
                name, _, version = stem.partition("-")
                yield name.lower().replace("_", "-"), version.partition("-")[0]


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())


def _gpus() -> list[str]:
    """Return the names of the GPUs, with their driver."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    command = [program, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=True)
    except (OSError, subprocess.SubprocessError):
        return []
    return done.stdout.splitlines()

"""What results were made with: packages and machine."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = (
    "autotune-torch",
    "torch",
    "numpy",
    "scipy",
    "scikit-learn",
    "optuna",
    "schedulefree",
    "prodigyopt",
    "dadaptation",
    "transformers",
    "ray",
    "gymnasium",
    "ale-py",
)


def versions(device: str = "cpu") -> dict[str, str]:
    """Packages that are installed, Python, system and processor, by name; for `cuda` the GPU, too."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    found["system"] = platform.platform()
    found["processor"] = f"{_processor()}, {os.cpu_count()} cores"
    if device == "cuda":
        found["gpu"] = f"{torch.cuda.get_device_name()}, {torch.cuda.device_count()} of them"
        found["cuda"] = str(torch.version.cuda)
    return found


def merged(before: Mapping[str, str], now: Mapping[str, str]) -> dict[str, str]:
    """What two stretches of one suite were made with; both values of what has changed in between."""
    both = dict(before)
    for name, value in now.items():
        known = both.setdefault(name, value)
        if value not in known.split(" and "):
            both[name] = f"{known} and {value}"
    return both


def _processor() -> str:
    if (info := Path("/proc/cpuinfo")).exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

"""Where a framework must be there, and where its tests may be skipped."""

import os
from importlib import import_module

import pytest


def framework(name):
    """The imported framework; without it the file is skipped, but never in CI."""
    return import_module(name) if "CI" in os.environ else pytest.importorskip(name)

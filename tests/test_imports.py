"""Imports run one way: a module may import only what stands in an earlier layer, or in its own."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
LAYERS = [
    ["actions", "verbs"],
    ["records", "page_link", "clock", "ramps", "process", "terminal", "trends"],
    ["hyperparameters", "generators", "encoding", "history", "outcomes", "slots"],
    ["sensors", "actuators", "inplace", "plant", "snapshots", "manifest", "checkpoints", "tape", "data"],
    ["evaluation", "journal_tables", "places", "journal_database", "journal", "commands", "mailboxes"],
    ["supervisor", "controls", "memory"],
    ["curves", "sweeps", "plot", "plot_against", "preflight", "live_line", "export"],
    ["mlflow_traces", "mlflow_run", "mlflow_server", "delivery"],
    ["trials", "undoing"],
    ["executor"],
    ["inbox", "panel"],
    ["intake"],
    ["engine"],
    ["tuner", "testing"],
    ["integrations"],
    ["runs", "remote", "web", "cli_words", "cli_control", "cli_ui", "cli_bench", "cli", "demo"],
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
FILES = [
    p
    for p in sorted((ROOT / "autotune").rglob("*.py"))
    if p.name != "__init__.py" or p.parent.name != "autotune"
]


def imported(path):
    """Dotted names of what the file imports from this project."""
    package = ("autotune", *path.relative_to(ROOT / "autotune").parent.parts)
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.startswith("autotune"))
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            if module == "autotune":
                yield from (f"autotune.{alias.name}" for alias in node.names)
            elif module.startswith("autotune."):
                yield module


def own(path):
    return path.relative_to(ROOT / "autotune").parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_arrow_points_outward(path):
    assert own(path) in RANK, "a new module takes its place in LAYERS"
    for name in imported(path):
        part = name.split(".")[1]
        if part in ("policies", "benchmarks"):
            assert own(path) in ("cli", "cli_bench", "demo"), f"{path.name} knows {name}"
        else:
            assert RANK[part] <= RANK[own(path)], f"{path.name} imports {name} from a later layer"


@pytest.mark.parametrize("path", sorted((ROOT / "policies").glob("*.py")), ids=lambda p: p.name)
def test_policies_know_the_records_and_nothing_else_of_us(path):
    tree = ast.parse(path.read_text())
    names = [a.name for n in ast.walk(tree) if isinstance(n, ast.Import) for a in n.names]
    names += [n.module or "" for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) and not n.level]
    for name in names:
        root = name.split(".")[0]
        assert root != "torch", f"{path.name} imports torch"
        assert root != "autotune" or name == "autotune.records", f"{path.name} imports {name}"

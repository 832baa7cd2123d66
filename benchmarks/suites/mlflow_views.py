"""The two saved views of a suite's experiment in the MLflow UI: its arms, and its single runs.

Source: `ExperimentPageUIState.tsx` and `runs-charts.types.ts` of MLflow 3.17. Neither is documented: what an
older or newer UI does not know it leaves out, and the runs and their metrics are there all the same.
"""

from __future__ import annotations

import base64
import json
import time
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from .mlflow_entry import RATE, at

PREFIX = "mlflow.sharedViewState."
ARMS, TRIALS = "arms", "trials"
COLUMNS, HEIGHT = 2, 400
LOADED = 100
"""Runs that the UI loads at first."""


def views(results: str, budgets: Sequence[float], runs: int) -> dict[str, str]:
    """Tags of the experiment that hold the views.

    Args:
        results: identity of the results.
        budgets: those that were run.
        runs: how many single ones there are.
    """
    return {
        f"{PREFIX}{results}-{ARMS}": _saved("Arms against the tuned baseline", _arms(results, budgets)),
        f"{PREFIX}{results}-{TRIALS}": _saved("Single runs", _trials(results, runs)),
    }


def link(address: str, experiment: str, results: str, view: str) -> str:
    """The address of a view.

    Args:
        address: of the server; `.` for a link from one of its own pages.
        experiment: its id.
        results: identity of the results.
        view: `ARMS` or `TRIALS`.
    """
    # Without the workflow type MLflow opens a page for language models, which shows no run.
    return (
        f"{address.rstrip('/')}/#/experiments/{experiment}/runs?viewStateShareKey={results}-{view}"
        "&compareRunsMode=CHART&workflowType=machine_learning"
    )


def _arms(results: str, budgets: Sequence[float]) -> dict[str, Any]:
    """A run an arm, over all workloads: at most some dozens, where the UI loads a hundred."""
    return _state(
        f"tags.`autotune.results` = '{results}' and tags.`autotune.level` = 'arm'",
        "metrics.`median score`",
        {
            "Score: loss over the baseline's": [
                _chart("BAR", "median score"),
                _line("score by rate", xAxisKey="metric", selectedXAxisMetricKey=RATE),
                _chart("BAR", "worst score"),
                _line("progress by percent"),
                *(_chart("BAR", f"median score{at(budget)}") for budget in budgets if budget != 1.0),
                _chart("BAR", "share destroyed"),
            ]
        },
    )


def _trials(results: str, runs: int) -> dict[str, Any]:
    """Single runs: a random hundred, which the UI loads at first, since digests are random."""
    which = f"{LOADED} of {runs:,} single runs, at random" if runs > LOADED else f"All {runs} single runs"
    return _state(
        f"tags.`autotune.results` = '{results}' and tags.`autotune.level` = 'cell'",
        "tags.`autotune.digest`",
        {
            which: [
                _chart(
                    "PARALLEL",
                    "parallel",
                    selectedParams=["workload", "arm"],
                    selectedMetrics=[RATE, "log10 score"],
                    showAllRuns=True,
                )
            ],
            "The same runs": [
                _chart(
                    "SCATTER",
                    "scatter",
                    xaxis={"key": RATE, "type": "METRIC"},
                    yaxis={"key": "log10 score", "type": "METRIC"},
                ),
                _line("selection capped"),
                _line("lr"),
            ],
        },
    )


def _state(search: str, order: str, sections: Mapping[str, list[dict[str, Any]]]) -> dict[str, Any]:
    """What the UI keeps of a view: these sections, and closed ones for what else was logged."""
    return {
        "searchFilter": search,
        "orderByKey": order,
        "orderByAsc": True,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "datasetsFilter": [],
        "modelVersionFilter": "All Runs",
        "selectedColumns": [],
        "runsHiddenMode": "SHOW_ALL",
        "hideEmptyCharts": True,
        "isAccordionReordered": True,
        "autoRefreshEnabled": False,
        "compareRunSections": [
            *(
                {
                    "uuid": title,
                    "name": title,
                    "display": bool(charts),
                    "columns": max(1, min(len(charts), COLUMNS)),
                    "cardHeight": HEIGHT,
                }
                for title, charts in [*sections.items(), ("Model metrics", []), ("nonfinite", [])]
            ),
        ],
        "compareRunCharts": [
            {**chart, "metricSectionId": title} for title, charts in sections.items() for chart in charts
        ],
    }


def _line(metric: str, **settings: Any) -> dict[str, Any]:
    return _chart(
        "LINE",
        metric,
        **{
            "selectedMetricKeys": [metric],
            "xAxisKey": "step",
            "scaleType": "log",
            "useGlobalXaxisKey": False,
            "lineSmoothness": 0,
            "useGlobalLineSmoothing": False,
            **settings,
        },
    )


def _chart(kind: str, metric: str, **settings: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "uuid": metric,
        "metricKey": metric,
        "runsCountToCompare": LOADED,
        "deleted": False,
        "isGenerated": False,
        **settings,
    }


def _saved(name: str, state: dict[str, Any]) -> str:
    packed = base64.b64encode(zlib.compress(json.dumps(state).encode(), 9)).decode()
    now = int(time.time() * 1000)
    return json.dumps({"name": name, "createdAt": now, "updatedAt": now, "state": f"deflate;{packed}"})

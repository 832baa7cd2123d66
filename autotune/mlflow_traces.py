"""A decision as an MLflow trace, its outcome as feedback on that trace.

Every id is derived from the run's id and the decision's, so that sending one twice overwrites it.
"""

from __future__ import annotations

import hashlib
import json

from mlflow.entities import AssessmentSource, Feedback, Span, TraceInfo, TraceLocation, TraceState
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import SpanContext, TraceFlags

from .records import Decision, Outcome, Value, action_to_json


def trace_id(run: str, decision: int) -> str:
    """The id of the trace of a decision.

    Args:
        run: the `id` in the journal's meta.
        decision: the decision's id.
    """
    return f"tr-{_digest(f'{run}/{decision}', 16)}"


def trace_of(decision: Decision, run: str, mlflow_run: str, experiment: str) -> tuple[TraceInfo, Span]:
    """What MLflow keeps of a decision: one line that says why, one that says what, the rest as attributes.

    Args:
        decision: as it stands in the journal.
        run: the `id` in the journal's meta.
        mlflow_run: id of the MLflow run that the trace belongs to.
        experiment: id of that run's experiment.

    Returns:
        The trace and its only span.
    """
    key = trace_id(run, decision.id)
    why = _line(f"step {decision.step}", decision.source, decision.action.reason)
    what = _line(change(decision), decision.status, decision.note)
    start = int(decision.time * 1000)
    info = TraceInfo(
        trace_id=key,
        trace_location=TraceLocation.from_experiment_id(experiment),
        request_time=start,
        execution_duration=0,
        state=TraceState.ERROR if decision.status == "failed" else TraceState.OK,
        request_preview=why,
        response_preview=what,
        trace_metadata={
            "mlflow.sourceRun": mlflow_run,
            "mlflow.traceInputs": why,
            "mlflow.traceOutputs": what,
            "mlflow.trace_schema.version": "3",
        },
        tags={
            "mlflow.traceName": decision.action.kind,
            "autotune.run": run,
            "autotune.decision": str(decision.id),
            "autotune.source": decision.source,
            "autotune.status": decision.status,
        },
    )
    attributes = {
        "mlflow.traceRequestId": key,
        "mlflow.spanType": "TOOL",
        "mlflow.spanInputs": why,
        "mlflow.spanOutputs": what,
        "step": decision.step,
        "spent": decision.spent,
        "branch": decision.branch,
        "source": decision.source,
        "status": decision.status,
        "before": dict(decision.before),
        "after": dict(decision.after),
        "action": action_to_json(decision.action),
        **{f"evidence/{name}": value for name, value in decision.action.evidence.items()},
    }
    span = ReadableSpan(
        name=decision.action.kind,
        context=SpanContext(
            trace_id=int(key.removeprefix("tr-"), 16),
            span_id=int(_digest(key, 8), 16),
            is_remote=False,
            trace_flags=TraceFlags(TraceFlags.SAMPLED),
        ),
        # MLflow keeps every attribute as JSON text.
        attributes={name: json.dumps(value, ensure_ascii=False) for name, value in attributes.items()},
        start_time=start * 1_000_000,
        end_time=start * 1_000_000,
    )
    return info, Span(span)


def feedback_of(outcome: Outcome, number: int, run: str) -> list[Feedback]:
    """What MLflow keeps of an outcome: its verdict, and each measure's distance from its forecast.

    Args:
        outcome: as it stands in the journal.
        number: its place among the outcomes of the run.
        run: the `id` in the journal's meta.
    """
    measures = outcome.measures
    values: dict[str, float | str] = {"outcome": outcome.verdict}
    for name, measured in measures.items():
        forecast = measures.get(f"{name.removesuffix('_measured')}_forecast")
        if name.endswith("_measured") and measured is not None and forecast is not None:
            values[f"delta_{name.removesuffix('_measured')}"] = measured - forecast
    rationale = f"{outcome.horizon} steps later, against a forecast of the run without it"
    feedbacks = []
    for name, value in values.items():
        feedback = Feedback(
            name=name,
            value=value,
            trace_id=trace_id(run, outcome.decision),
            source=AssessmentSource(source_type="CODE", source_id="autotune"),
            rationale=rationale,
            metadata={key: str(value) for key, value in measures.items()},
        )
        feedback.assessment_id = f"a-{_digest(f'{run}/outcome/{number}/{name}', 16)}"
        feedbacks.append(feedback)
    return feedbacks


def change(decision: Decision) -> str:
    """What the decision did to the hyperparameters, as in `lr 0.1 → 0.05`; else what it asked for."""
    moved = [
        f"{name} {_short(old)} → {_short(decision.after[name])}"
        for name, old in decision.before.items()
        if name in decision.after
    ]
    return ", ".join(moved) if moved and decision.action.kind == "set" else decision.action.describe()


def _line(*parts: str) -> str:
    return " · ".join(" ".join(part.split()) for part in parts if part)


def _short(value: Value) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _digest(text: str, size: int) -> str:
    return hashlib.blake2b(text.encode(), digest_size=size).hexdigest()

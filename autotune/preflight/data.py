"""Does the loader repeat, sort or leak its samples, and how does the network's input look?"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from .bench import leaves
from .reading import Reading
from .report import Finding
from .watch import Seen

LOADER, LEAK, LABELS, INPUTS = "loader", "leak", "labels", "inputs"
NARROW = 8
"""Bytes of a sample below which equal samples say nothing."""
SORTED = 6.0
"""Standard errors by which neighbours have the same label more often than in random order."""
ORDERED = 4
"""Batches of a pass from which the same order is hardly luck."""
FEWEST = 32
"""Samples without which labels and features are not judged."""
SPREAD = 1000.0
"""Ratio of two features' standard deviations from which they are unlike."""


def loader(first: Reading, again: Reading, fixed: bool) -> list[Finding]:
    """Batches that come twice, and passes in the same order.

    Args:
        first: of one pass.
        again: the beginning of the next.
        fixed: whether the loader is a mere list, which has an order by nature.
    """
    findings = []
    count = first.count
    if not count:
        return [
            Finding(
                LOADER,
                "error",
                "The loader has no batches.",
                "There is nothing to train on.",
                "Check the length of the data set against batch size and drop_last.",
            )
        ]
    if not first.digests:
        text = f"{count} batches read, in which no plain tensors are seen: they cannot be told apart."
        findings.append(Finding(LOADER, "note", text, "Repetitions and order are not looked for."))
    repeats = len(first.digests) - len(set(first.digests))
    whole = fixed and len(set(first.digests)) == 1
    if repeats and whole:
        text = f"The list holds one and the same batch {count} times."
        means = "Fine where it is the whole data set; otherwise the network sees nothing else."
        findings.append(Finding(LOADER, "note", text, means, figures={"repeats": repeats, "batches": count}))
    elif repeats:
        row = sum(a == b for a, b in zip(first.digests, first.digests[1:], strict=False))
        findings.append(
            Finding(
                LOADER,
                "error" if 2 * repeats >= count else "warning",
                f"{repeats} of {count} batches are repetitions of an earlier one, {row} of them in a row.",
                "The network sees fewer samples than it seems.",
                "Look at __getitem__, the sampler, and the seeds of workers.",
                {"repeats": repeats, "in_a_row": row, "batches": count},
            )
        )
    shown = len(again.digests)
    if shown >= ORDERED and not repeats and again.digests == first.digests[:shown]:
        findings.append(
            Finding(
                LOADER,
                "note" if fixed else "warning",
                f"Two passes begin with the same {shown} batches in the same order.",
                "The data are not shuffled anew: the network can learn their order.",
                "Pass shuffle=True, or call set_epoch before each pass; fine for data in order of time.",
                {"batches": shown},
            )
        )
    if first.broken:
        shown_leaves = ", ".join(f"{name} in {n} batches" for name, n in first.broken.items())
        findings.append(
            Finding(
                LOADER,
                "error",
                f"Values are not finite: {shown_leaves} of {count}.",
                "One such batch makes the weights NaN.",
                "Fill or drop missing values where the data are read.",
                {name: float(n) for name, n in first.broken.items()},
            )
        )
    if not findings:
        passes = "" if count > 1 else " (one batch a pass)"
        text = f"{count} batches read, none twice, finite; passes differ in order{passes}."
        findings.append(Finding(LOADER, "ok", text, figures={"batches": count}))
    return findings


def leak(train: Reading, validation: Reading) -> Finding:
    """Samples whose input is the same, byte for byte, in training and validation."""
    figures = {"training": len(train.samples), "validation": len(validation.samples)}
    if min(train.width, validation.width) < NARROW or not train.samples or not validation.samples:
        return Finding(
            LEAK, "note", "Samples are too small to be told apart by their bytes.", figures=figures
        )
    places = {digest: i for i, digest in reversed(list(enumerate(train.samples)))}
    found = [(places[d], i) for i, d in enumerate(validation.samples) if d in places]
    what = f"{len(train.samples)} training and {len(validation.samples)} validation samples"
    figures["shared"] = len(found)
    if not found:
        return Finding(LEAK, "ok", f"None of {what} is in both.", figures=figures)
    shown = ", ".join(f"{i} = {j}" for i, j in found[:3])
    return Finding(
        LEAK,
        "error" if 100 * len(found) >= len(validation.samples) else "warning",
        f"{len(found)} of {what} are in both (training = validation, in the order read: {shown}).",
        "Validation is too good to be true there, and choices by it overfit.",
        "Split before anything is copied or augmented; split by person or source, not by row.",
        figures,
    )


def labels(reading: Reading, seen: Seen, last: Any) -> list[Finding]:
    """Batches of a single class, and labels in order; only where the loss shows which leaf is the label.

    Args:
        reading: of the training data.
        seen: the terms of the loss.
        last: the batch that was watched last.
    """
    column = _label(reading, seen, last)
    if column is None:
        return []
    batches = [part for part in reading.columns[column] if len(part)]
    every = torch.cat(batches)
    n, counts = len(every), torch.unique(every, return_counts=True)[1].double()
    classes = max((len(t.targets) for t in seen.terms.values() if t.family == "classes"), default=2)
    if n < FEWEST:
        return []
    if len(counts) == 1:
        return [
            Finding(
                LABELS,
                "warning",
                f"All {n} labels that were read are {int(every[0])}, of {classes} classes.",
                "The data are sorted by class, or the label is constant.",
                "Shuffle, and check how labels are made.",
                {"samples": n, "classes": classes},
            )
        ]
    single = sum(len(part) > 1 and len(part.unique()) == 1 for part in batches)
    same = torch.cat([part[1:] == part[:-1] for part in batches]).double()
    expected = float((counts * (counts - 1)).sum() / (n * (n - 1)))
    error = math.sqrt(max(expected * (1 - expected), 1e-12) / max(len(same), 1))
    figures = {"neighbours_alike": float(same.mean()), "expected": expected, "single_class_batches": single}
    if len(same) >= FEWEST and float(same.mean()) > expected + SORTED * error:
        return [
            Finding(
                LABELS,
                "warning",
                f"Neighbours have the same label in {float(same.mean()):.0%} of cases; in random order "
                f"{expected:.0%} would. {single} of {len(batches)} batches hold a single class.",
                "The data come sorted by class: each batch pulls towards its own.",
                "Pass shuffle=True; fine for samplers that group classes on purpose.",
                figures,
            )
        ]
    text = f"{len(counts)} classes in {n} labels, in random order."
    return [Finding(LABELS, "ok", text, figures=figures)]


def _label(reading: Reading, seen: Seen, last: Any) -> str | None:
    """The leaf of a batch that the loss takes for the target."""
    for term in seen.terms.values():
        if term.family == "regression":
            continue
        target = term.target.cpu().double().flatten()
        for name, leaf in leaves(last).items():
            same = name in reading.columns and leaf.numel() == len(target)
            if same and bool((leaf.cpu().double().flatten() == target).all()):
                return name
    return None


def inputs(seen: Seen) -> list[Finding]:
    """Scale of the input, as the first layer with weights sees it; nothing before a normalisation."""
    if not seen.inputs or "norm" in seen.first or seen.first.startswith("embedding"):
        return []
    rows = [t.double() for t in seen.inputs if t.shape[1:] == seen.inputs[0].shape[1:] and t.ndim]
    x: Tensor = torch.cat([t.reshape(-1, t.shape[-1]) if seen.first == "linear" else t for t in rows]).cpu()
    if not bool(x.isfinite().all()):  # the loader's check, or the loss's, says so
        return []
    mean, deviation = float(x.mean()), float(x.std())
    figures = {"mean": mean, "deviation": deviation}
    found = f"The first layer ({seen.first}) sees mean {mean:.3g}, standard deviation {deviation:.3g}."
    remedy = "Standardise inputs to mean 0 and deviation 1 with figures of the training data."
    if deviation == 0:
        return [Finding(INPUTS, "error", found, "All inputs are the same.", "Look at the data.", figures)]
    if deviation > 10 or deviation < 0.01 or abs(mean) > 10 * deviation:
        means = (
            "Initial weights are made for inputs of mean 0 and deviation 1: learning is slow, or explodes."
        )
        return [Finding(INPUTS, "warning", found, means, remedy, figures)]
    if seen.first == "linear" and x.ndim == 2 and len(x) >= FEWEST:
        spread = x.std(0)
        moving = spread[spread > 1e-6 * spread.max()]
        figures["constant"] = len(spread) - len(moving)
        figures["spread"] = float(moving.max() / moving.min())
        if figures["spread"] > SPREAD:
            means = f"Features differ in scale by {figures['spread']:.0e}: the large ones drown the others."
            return [Finding(INPUTS, "warning", found, means, remedy, figures)]
        if figures["constant"]:
            text = (
                f"{found} {figures['constant']:.0f} of {len(spread)} features are constant in {len(x)} rows."
            )
            return [Finding(INPUTS, "ok", text, figures=figures)]
    return [Finding(INPUTS, "ok", found, figures=figures)]

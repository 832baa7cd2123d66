// Which charts a run has, and the tools above them: axis, smoothing, the way back from a zoom.

import { h, icon } from "./dom.js";

const TONES = ["tone-a", "tone-b", "tone-c", "tone-d"];

const training = (run) =>
  run.signals.includes("loss")
    ? [{ run: run.name, signal: "loss", label: "training", colour: "train", smoothed: true }]
    : [];

/** What to draw of one run: `{loss, others}`, each as `Plot` takes it. */
export function curvesOf(run) {
  const own = (signal, label, colour, more = {}) => ({ run: run.name, signal, label, colour, ...more });
  const has = (signal) => run.signals.includes(signal);
  const losses = training(run);
  if (has("validation/loss")) losses.push(own("validation/loss", "validation", "valid", { wide: 2 }));
  if (has("train/loss")) losses.push(own("train/loss", "training, evaluated", "tone-c"));
  const loss = { title: "Loss", curves: losses, size: "large", log: "auto" };

  const others = [];
  const ahead = run.hyperparameters.filter((each) => each.kind !== "categorical" && has(`hp/${each.name}`));
  for (const { name, kind, unit } of ahead) {
    const title = unit ? `${name} (${unit})` : name;
    others.push({
      title,
      curves: [own(`hp/${name}`, "value", "accent", { stairs: true })],
      hyperparameter: name,
      log: kind === "log",
    });
  }
  for (const signal of run.signals) {
    if (
      !signal.startsWith("validation/") ||
      signal === "validation/loss" ||
      signal === "validation/loss_error"
    )
      continue;
    others.push({ title: signal, curves: [own(signal, "value", "valid")] });
  }
  for (const [signal, title] of [
    ["gradient_norm", "Gradient norm"],
    ["update_ratio", "Update ratio"],
  ]) {
    if (has(signal))
      others.push({ title, curves: [own(signal, "norm", TONES[2], { smoothed: true })], log: "auto" });
  }
  for (const each of others) if (each.curves.length === 1) each.curves[0].label = "";
  return { loss, others };
}

/** The tools that all charts of a group share. */
export function tools(charts) {
  const axis = (value, words) => {
    const input = h("input", {
      type: "radio",
      name: "axis",
      value,
      checked: charts.axis === value,
      data: { test: `axis-${value}` },
      onchange: () => charts.by(value),
    });
    return h("label", {}, input, h("span", {}, words));
  };
  const reset = h(
    "button",
    {
      type: "button",
      class: "quiet reset",
      hidden: true,
      data: { test: "zoom-reset" },
      onclick: () => charts.reset(),
    },
    icon("undo"),
    h("span", {}, "All"),
  );
  const slider = h("input", {
    ...{
      type: "range",
      min: 0,
      max: 1,
      step: 0.1,
      value: charts.smoothing,
      "aria-label": "Smoothing of the raw losses",
    },
    ...{ data: { test: "smoothing" }, oninput: (event) => charts.softly(Number(event.target.value)) },
  });
  const switched = h(
    "fieldset",
    { class: "switched", role: "radiogroup", "aria-label": "The charts' axis" },
    axis("step", "Step"),
    axis("spent", "Spent"),
  );
  return {
    element: h(
      "div",
      { class: "tools" },
      reset,
      h("label", { class: "smoothing" }, h("span", {}, "Smooth"), slider),
      switched,
    ),
    update() {
      reset.hidden = charts.view === null;
    },
  };
}

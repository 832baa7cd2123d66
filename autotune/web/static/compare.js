// Two runs: the same signals over each other, their hyperparameters and final figures side by side.

import { Charts } from "./chart.js";
import { count, h, number } from "./dom.js";
import { tools } from "./panels.js";

const LABELS = {
  loss: "Loss",
  "validation/loss": "Validation loss",
  gradient_norm: "Gradient norm",
  update_ratio: "Update ratio",
};
const SPREAD = new Set(["loss", "validation/loss", "gradient_norm", "update_ratio"]);
const SMOOTHED = new Set(["loss", "gradient_norm", "update_ratio"]);

/** Show two runs, `?a=NAME&b=NAME`, in `main`. */
export async function compareView(main, { api, session, title, go }) {
  title("Compare");
  const asked = new URLSearchParams(location.search);
  const [{ runs }] = await Promise.all([api.runs(), session()]);
  if (!main.isConnected) return { close() {} };
  const names = runs.map((run) => run.name);
  const a = names.includes(asked.get("a")) ? asked.get("a") : names[0];
  const b = names.includes(asked.get("b")) ? asked.get("b") : names.find((name) => name !== a);
  if (b === undefined) {
    main.append(h("p", { class: "empty" }, "Two runs are needed to compare them."));
    api.follow(null, {});
    return { close() {} };
  }

  const select = (label, chosen, other, tone, side) => {
    const options = names
      .filter((name) => name !== other)
      .map((name) => h("option", { value: name, selected: name === chosen }, name));
    const onchange = (event) => go(`/compare?${new URLSearchParams({ a, b, [side]: event.target.value })}`);
    return h(
      "label",
      { class: `key ${tone}` },
      h("i"),
      h("span", { class: "unseen" }, label),
      h("select", { data: { test: `compare-${side}` }, onchange }, options),
    );
  };
  const view = h("div", { class: "compare" });
  const charts = new Charts(api, view);
  const bar = tools(charts);
  charts.onchange = () => bar.update();
  const grid = h("div", { class: "others wide" });
  const table = h("section", { class: "panel figures-table", "aria-label": "Figures" });
  view.append(
    h(
      "div",
      { class: "compare-head" },
      h("h1", {}, "Compare"),
      select("First run", a, b, "train", "a"),
      select("Second run", b, a, "valid", "b"),
      bar.element,
    ),
    h("div", { class: "columns" }, h("div", { class: "left" }, grid), h("div", { class: "right" }, table)),
  );
  main.append(view);

  const ask = () => Promise.all([api.run(a), api.run(b)]);
  const take = (runs) => {
    for (const { name, step, spent } of runs) charts.follow({ name, step, spent });
    fill(table, runs);
  };
  const both = await ask();
  if (!main.isConnected) {
    charts.close();
    return { close() {} };
  }
  take(both);
  for (const signal of signalsOf(both)) {
    const words = LABELS[signal] ?? signal.replace(/^hp\//, "");
    const panel = h(
      "section",
      { class: "panel small", "aria-label": words },
      h("div", { class: "panel-head" }, h("h3", {}, words)),
    );
    grid.append(panel);
    const curves = [
      [a, "train"],
      [b, "valid"],
    ].map(([run, colour]) => ({
      run,
      signal,
      colour,
      label: "",
      smoothed: SMOOTHED.has(signal),
      stairs: signal.startsWith("hp/"),
    }));
    const knob = both.flatMap((run) => run.hyperparameters).find((each) => `hp/${each.name}` === signal);
    charts.add(panel, {
      title: words,
      curves,
      log: knob ? knob.kind === "log" : SPREAD.has(signal) && "auto",
      size: signal === "loss" ? "large" : "",
    });
  }

  let asking = false;
  const refresh = async () => {
    if (asking) return;
    asking = true;
    await ask().then(take, () => {}); // what failed is asked again: an event comes when the server is back
    asking = false;
  };
  api.follow(null, { open: refresh, runs: refresh });
  return { close: () => charts.close() };
}

/** What both runs have measured, losses first, and the hyperparameters of either. */
function signalsOf([a, b]) {
  const shown = (signal) =>
    signal in LABELS ||
    signal.startsWith("hp/") ||
    (signal.startsWith("validation/") && signal !== "validation/loss_error");
  const rank = (signal) =>
    signal === "loss" ? 0 : signal.startsWith("validation/") ? 1 : signal.startsWith("hp/") ? 2 : 3;
  const common = a.signals.filter((signal) => b.signals.includes(signal) && shown(signal));
  const own = [...a.signals, ...b.signals].filter((signal) => signal.startsWith("hp/"));
  return [...new Set([...common, ...own])].sort((x, y) => rank(x) - rank(y));
}

function fill(element, [a, b]) {
  const row = (label, x, y) =>
    h(
      "tr",
      { class: x !== y && "differs" },
      h("th", { scope: "row" }, label),
      h("td", { class: "num" }, x),
      h("td", { class: "num" }, y),
    );
  const group = (label) => h("tr", { class: "group" }, h("th", { scope: "colgroup", colspan: 3 }, label));
  const knobs = [...new Set([...a.hyperparameters, ...b.hyperparameters].map((each) => each.name))];
  const knob = (run, name) => number(run.hyperparameters.find((each) => each.name === name)?.value);
  const policies = [...new Set([...a.policies, ...b.policies].map((each) => each.name))];
  const standing = (run, name) => {
    const found = run.policies.find((each) => each.name === name);
    return found ? (found.benched === null ? "asked" : "benched") : "–";
  };
  const metrics = [...new Set([...Object.keys(a.last), ...Object.keys(b.last)])].filter(
    (name) => !name.startsWith("hp/"),
  );
  const head = h(
    "thead",
    {},
    h(
      "tr",
      {},
      h("td"),
      h("th", { scope: "col", class: "key train" }, h("i"), "first"),
      h("th", { scope: "col", class: "key valid" }, h("i"), "second"),
    ),
  );
  const body = h(
    "tbody",
    {},
    row("state", a.status, b.status),
    row("step", count(a.step), count(b.step)),
    row("spent", count(a.spent), count(b.spent)),
    row("branch", String(a.branch), String(b.branch)),
    policies.length && group("Policies"),
    policies.map((name) => row(name, standing(a, name), standing(b, name))),
    group("Hyperparameters"),
    knobs.map((name) => row(name, knob(a, name), knob(b, name))),
    group("Last measured"),
    metrics.map((name) => row(name, number(a.last[name]), number(b.last[name]))),
  );
  element.replaceChildren(h("table", { class: "table" }, head, body));
}

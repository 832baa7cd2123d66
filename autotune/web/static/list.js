// The list of runs, live.

import { ago, count, debounce, h, icon, number, say, svg, who } from "./dom.js";
import { spread } from "./scale.js";

const WIDTH = 120;
const HEIGHT = 32;

/** Show the list in `main`. */
export async function listView(main, { api, title, go, session }) {
  title("Runs");
  const [{ store: place }, first] = await Promise.all([session(), api.runs()]);
  if (!main.isConnected) return { close() {} };
  const chosen = new Set(); // names of the runs to compare
  const rows = new Map();
  const list = h("ul", { class: "runs" });
  const compare = h(
    "button",
    { type: "button", class: "primary compare-go", hidden: true, onclick: both },
    icon("compare"),
    "Compare",
  );
  const empty = h(
    "p",
    { class: "empty", hidden: true },
    `There is no run in ${place} yet. Train one, and it appears here.`,
  );
  const store = h("span", { class: "soft store" }, place);
  main.append(
    h(
      "div",
      { class: "list" },
      h("div", { class: "list-head" }, h("h1", {}, "Runs"), store, compare),
      list,
      empty,
    ),
  );

  function both() {
    const [a, b] = chosen;
    go(`/compare?${new URLSearchParams({ a, b })}`);
  }

  function choose(name, button) {
    if (!chosen.delete(name)) {
      if (chosen.size === 2) return;
      chosen.add(name);
    }
    button.setAttribute("aria-pressed", String(chosen.has(name)));
    compare.hidden = chosen.size !== 2;
  }

  function show({ runs }) {
    empty.hidden = runs.length > 0;
    const names = new Set(runs.map((run) => run.name));
    for (const [name, row] of rows) {
      if (names.has(name)) continue;
      row.element.remove();
      rows.delete(name);
    }
    runs.forEach((run, place) => {
      if (!rows.has(run.name)) rows.set(run.name, makeRow(run.name, choose));
      const row = rows.get(run.name);
      row.update(run);
      if (list.children[place] !== row.element) list.insertBefore(row.element, list.children[place] ?? null);
    });
  }

  show(first);
  // What failed is asked again, because an event comes when the server is back.
  const refresh = debounce(() => api.runs().then(show, () => {}), 100);
  let connected = false;
  api.follow(null, {
    open() {
      if (connected) refresh();
      connected = true;
    },
    runs: refresh,
  });
  return { close() {} };
}

function makeRow(name, choose) {
  const state = h("span", { class: "chip" });
  const progress = h("progress", { max: 1, "aria-label": "Progress" });
  const steps = h("span", { class: "num soft" });
  const measured = h("span", { class: "soft small" });
  const loss = h("span", { class: "num" });
  const last = h("span", { class: "soft last" });
  const line = svg("polyline", { class: "spark-line" });
  const spark = svg(
    "svg",
    { class: "spark", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" },
    line,
  );
  const pick = h(
    "button",
    {
      type: "button",
      class: "icon-button pick",
      "aria-pressed": "false",
      "aria-label": `Compare ${name}`,
      title: "Compare",
      data: { test: `pick-${name}` },
      onclick: () => choose(name, pick),
    },
    icon("compare"),
  );
  const link = h(
    "a",
    { class: "run-link", href: `/runs/${encodeURIComponent(name)}`, data: { link: "", test: `run-${name}` } },
    h("span", { class: "run-name" }, name),
    state,
    h("span", { class: "run-progress" }, progress, steps),
    spark,
    h("span", { class: "run-loss" }, measured, " ", loss),
    last,
  );
  return {
    element: h("li", {}, link, pick),
    update(run) {
      const shown = run.paused && run.status === "running" ? "paused" : run.status;
      say(state, shown);
      state.className = `chip ${shown}`;
      if (run.total_steps) progress.value = Math.min(1, run.spent / run.total_steps);
      progress.hidden = !run.total_steps;
      say(steps, count(run.spent) + (run.total_steps ? ` / ${count(run.total_steps)}` : ""));
      say(measured, run.validation === null ? "training loss" : "validation loss");
      say(loss, number(run.validation ?? run.loss));
      say(last, run.last ? `${who(run.last.source)} · ${run.last.text}` : `started ${ago(run.created)}`);
      line.setAttribute("points", sparkline(run.spark));
    },
  };
}

/** The points of a small curve, on a log scale where its chart has one; what is not finite is left out. */
function sparkline(losses) {
  const values = spread(losses) ? losses.map((loss) => loss && Math.log(loss)) : losses;
  const known = values.filter((value) => value !== null);
  const low = Math.min(...known);
  const span = Math.max(...known) - low || 1;
  const x = (place) => (place / Math.max(1, values.length - 1)) * WIDTH;
  const y = (value) => HEIGHT - 2 - ((value - low) / span) * (HEIGHT - 4);
  return values
    .flatMap((value, place) => (value === null ? [] : [`${x(place).toFixed(1)},${y(value).toFixed(1)}`]))
    .join(" ");
}

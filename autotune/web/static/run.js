// One run: how it stands and what a person can do at once, its charts, and the panels of its controls.

import * as cards from "./cards.js";
import { Charts } from "./chart.js";
import * as checkpoints from "./checkpoints.js";
import { count, h, icon, outcome, say } from "./dom.js";
import { openDecision } from "./decision.js";
import * as inbox from "./inbox.js";
import * as journal from "./journal.js";
import { curvesOf, tools } from "./panels.js";
import { Strip } from "./strip.js";

const CONFIRM = 4000; // ms in which the second tap has to come
const CALM = 1500; // ms until the run is read again when it has only come further
const PRESSING = ["status", "paused", "last_decision", "revision"];
const MARKS = 500; // decisions to a request
const MOST_MARKS = 4000; // on the strip

/** Show the run of this name in `main`. */
export async function runView(main, { api, session: begun, toast, title }, name) {
  const [session, first] = await Promise.all([begun(), api.run(name)]);
  if (!main.isConnected) return { close() {} };
  let run = first;
  title(name);

  const view = h("div", { class: "run" });
  const charts = new Charts(api, view);
  const context = {
    run: name,
    api,
    session,
    toast,
    chart: { preview: (...to) => charts.preview(...to), mark: (step) => charts.mark(step) },
  };
  const head = header(run, context);
  const loss = h("section", { class: "panel loss", "aria-label": "Loss" });
  const others = h("section", { class: "others", "aria-label": "Charts" });
  const left = h("div", { class: "left" }, loss, others);
  const right = h("div", { class: "right" });
  view.append(head.element, h("div", { class: "columns" }, left, right));
  main.append(view);

  const strip = new Strip(charts, (id) => openMark(id));
  const specs = curvesOf(run);
  const bar = tools(charts);
  loss.append(h("div", { class: "panel-head" }, h("h2", {}, "Loss"), bar.element));
  charts.add(loss, specs.loss);
  loss.append(strip.element);
  for (const spec of specs.others) addChart(spec);
  charts.onchange = () => {
    strip.draw();
    bar.update();
  };

  const panels = [
    [inbox, "inbox", "Suggestions and policies"],
    [cards, "cards", "Hyperparameters"],
    [checkpoints, "checkpoints", "Checkpoints"],
    [journal, "journal", "Journal"],
  ].map(([module, kind, title]) => {
    const body = h("div", { class: "slot" });
    right.append(
      h(
        "section",
        { class: `panel ${kind}`, id: kind, tabindex: -1, "aria-label": title },
        h("div", { class: "panel-head" }, h("h2", {}, title)),
        body,
      ),
    );
    return module.mount(body, context);
  });

  function addChart(spec) {
    const panel = h(
      "section",
      { class: "panel small", "aria-label": spec.title },
      h("div", { class: "panel-head" }, h("h3", {}, spec.title)),
    );
    others.append(panel);
    charts.add(panel, spec);
  }

  async function openMark(id) {
    const decision = strip.decisions.find((each) => each.id === id);
    charts.mark(decision.step);
    const dialog = await openDecision(context, id);
    if (dialog.open) dialog.addEventListener("close", () => charts.mark(null));
    else charts.mark(null); // closed while it was loading
  }

  async function marks() {
    let before;
    do {
      const page = await api.decisions(name, { before, limit: MARKS });
      strip.take(page.decisions);
      before = page.more ? page.decisions.at(-1).id : undefined;
    } while (before !== undefined && strip.decisions.length < MOST_MARKS);
  }

  function take(next) {
    const known = new Set(run.signals);
    if (next.signals.some((signal) => !known.has(signal))) {
      const shown = new Set(charts.plots.flatMap((plot) => plot.curves.map((curve) => curve.signal)));
      for (const spec of curvesOf(next).others)
        if (!spec.curves.some((curve) => shown.has(curve.signal))) addChart(spec);
    }
    run = next;
    charts.follow(run);
    head.update(run);
    for (const panel of panels) panel.update(run);
  }

  // At most one request for the run at a time, and one after it when something has happened meanwhile.
  let [asking, again] = [false, false];
  async function refresh() {
    if (asking) return void (again = true);
    asking = true;
    const before = run.last_decision;
    try {
      take(await api.run(name));
      if (run.last_decision !== before) strip.take((await api.decisions(name, { limit: 50 })).decisions);
    } catch {
      // The stream says when the server is back, and then it is asked again.
    }
    asking = false;
    if (again) {
      again = false;
      setTimeout(refresh, 500);
    }
  }

  let connected = false;
  let seen = {};
  let later;
  take(run);
  marks().catch(() => {});
  api.follow(name, {
    open() {
      if (connected) {
        refresh();
        charts.refresh();
      }
      connected = true;
    },
    state(state) {
      head.update({ ...run, ...state });
      charts.follow({ name, step: state.step, spent: state.spent });
      const pressing = PRESSING.some((key) => state[key] !== seen[key]);
      seen = state;
      if (pressing) return refresh();
      later ??= setTimeout(() => {
        later = undefined;
        refresh();
      }, CALM);
    },
    ack: refresh,
  });
  return {
    close() {
      clearTimeout(later);
      charts.close();
      strip.close();
    },
  };
}

/** The name, how far it is, and the buttons for the whole run. */
function header(first, context) {
  const { api, session, toast } = context;
  const state = h("span", { class: "chip", data: { test: "status" } });
  const trying = h("span", { class: "chip trying", hidden: true }, "trying out");
  const waits = h("a", { class: "chip waits", href: "#inbox", hidden: true });
  const progress = h("progress", { max: 1, "aria-label": "Progress" });
  const figures = h("p", { class: "figures num" });
  const [step, spent, total] = [h("b", { data: { test: "step" } }), h("span"), h("span")];
  figures.append("step ", step, h("span", { class: "soft" }, " · ", spent, " spent", total));

  async function send(button, action, done) {
    button.disabled = true;
    const waiting = (words, kind) => kind === "warn" && toast(words, kind);
    try {
      toast(...outcome(await api.command(context.run, action, { waiting }), done));
    } catch (error) {
      toast(error.message, "bad");
    }
    button.disabled = false;
  }

  const pause = control("pause", "pause", "Pause", () => send(pause, { kind: "pause" }, "Paused"));
  const resume = control("resume", "play", "Resume", () => send(resume, { kind: "resume" }, "Goes on"));
  const undo = control("undo", "undo", "Undo", () => send(undo, { kind: "undo", decision: null }, "Undone"));
  const back = h("a", { class: "button", href: "#checkpoints" }, icon("rewind"), h("span", {}, "Rewind"));
  let armed = 0;
  const stop = control("stop", "stop", "Stop", () => {
    if (!armed) return arm(CONFIRM);
    arm(0);
    send(stop, { kind: "stop" }, "Stops");
  });
  function arm(ms) {
    clearTimeout(armed);
    armed = ms && setTimeout(() => arm(0), ms);
    stop.classList.toggle("armed", ms > 0);
    say(stop.lastChild, ms ? "Confirm" : "Stop");
    stop.setAttribute("aria-label", ms ? "Confirm: stop the run" : "Stop");
  }

  const compare = h(
    "a",
    {
      class: "button quiet",
      "aria-label": "Compare with another run",
      title: "Compare with another run",
      href: `/compare?${new URLSearchParams({ a: first.name })}`,
      "data-link": "",
    },
    icon("compare"),
  );
  const link = first.mlflow && mlflowLink(first.mlflow, toast);
  const buttons = h(
    "div",
    { class: "run-buttons", role: "group", "aria-label": "The whole run" },
    pause,
    resume,
    undo,
    back,
    stop,
  );
  const links = h("div", { class: "run-links" }, compare, link);
  const title = h("div", { class: "run-title" }, h("h1", { class: "run-name" }, first.name), waits, links);
  const standing = h("div", { class: "run-standing" }, state, trying, progress, figures);
  return {
    element: h("header", { class: "run-head" }, title, standing, buttons),
    update(run) {
      const lives = run.status === "running";
      const shown = lives && run.paused ? "paused" : run.status;
      say(state, shown);
      state.className = `chip ${shown}`;
      trying.hidden = !(lives && run.trying);
      waits.hidden = run.suggestions.length === 0;
      say(waits, run.suggestions.length === 1 ? "1 suggestion" : `${run.suggestions.length} suggestions`);
      say(step, count(run.step));
      say(spent, count(run.spent));
      say(total, run.total_steps ? ` of ${count(run.total_steps)}` : "");
      progress.hidden = !run.total_steps;
      if (run.total_steps) progress.value = Math.min(1, run.spent / run.total_steps);
      pause.hidden = run.paused;
      resume.hidden = !run.paused;
      buttons.hidden = !lives || !session.write;
    },
  };
}

/** Where MLflow is no server, what is given is the command that opens it. */
function mlflowLink(address, toast) {
  const served = /^https?:/.test(address);
  const facts = { class: "button quiet", "aria-label": "This run in MLflow", title: "This run in MLflow" };
  return served
    ? h("a", { ...facts, href: address, target: "_blank", rel: "noopener noreferrer" }, icon("link"))
    : h("button", { ...facts, type: "button", onclick: () => toast(`It opens by: ${address}`) }, icon("link"));
}

function control(test, symbol, words, onclick) {
  return h(
    "button",
    { type: "button", class: test === "stop" ? "danger" : "", data: { test }, onclick },
    icon(symbol),
    h("span", {}, words),
  );
}

// The cards of a run's hyperparameters: what each is, who holds it, and what a person can do about it.

import { dial } from "./dial.js";
import { count, h, icon, number, role, say, who } from "./dom.js";
import { SHAPE_NAMES, readSteps, steps } from "./numbers.js";
import { button, choice, field, hindrance, send, statusLine, uid } from "./parts.js";
import { openRamp } from "./ramp.js";
import { openSchedule } from "./schedule.js";

/** Show the cards in `element`. */
export function mount(element, context) {
  const cards = new Map();
  const reason = h("p", { class: "reason" });
  const grid = h("div", { class: "knobs" });
  element.append(reason, grid);
  return {
    update(run) {
      say(reason, hindrance(context, run));
      for (const knob of run.hyperparameters) {
        if (!cards.has(knob.name)) {
          const made = card(context, knob);
          cards.set(knob.name, made);
          grid.append(made.element);
        }
        cards.get(knob.name).update(run, knob);
      }
    },
  };
}

function card(context, first) {
  const { name } = first;
  const title = uid();
  let [run, knob] = [null, first];
  let draft = null; // {value} or {error}: an edit that has not been applied; live values leave it alone
  let busy = false;
  let open = null; // the sheet of this card, if one is

  const value = h("span", { class: "value" });
  const badge = h("span", { class: "chip" });
  const going = h("p", { class: "going" });
  const progress = h("progress", { max: 1, "aria-label": `${name}, part of the way` });
  const status = statusLine();
  const dialled = knob.kind === "categorical" ? options(knob, edit) : knobDial(knob, edit);
  const apply = button("Apply", { class: "primary", data: { test: `apply-${name}` }, onclick: set });
  const drop = button(icon("close"), {
    class: "icon-button",
    "aria-label": `${name}: drop the edit`,
    onclick: cancel,
  });
  const moves = [];
  if (knob.kind !== "categorical") {
    moves.push(
      button([icon("ramp"), "Ramp"], { data: { test: `ramp-${name}` }, onclick: () => openSheet(openRamp) }),
      button([icon("schedule"), "Schedule"], {
        data: { test: `schedule-${name}` },
        onclick: () => openSheet(openSchedule),
      }),
    );
  }
  let span = { value: null };
  const hold = field({
    ...{ label: "Hold for", placeholder: "until released", inputmode: "numeric", class: "hold" },
    data: { test: `pin-steps-${name}` },
    read: (text) => (text.trim() === "" ? { value: null } : readSteps(text)),
    onread(result) {
      span = result;
      refresh();
    },
  });
  const pin = button([icon("pin"), "Pin"], { data: { test: `pin-${name}` }, onclick: keep });
  const release = button([icon("unpin"), "Release"], { data: { test: `release-${name}` }, onclick: letGo });

  const body = h(
    "fieldset",
    { class: "bare" },
    dialled.element,
    h("div", { class: "row" }, apply, drop, moves),
    h("div", { class: "row pinning" }, hold.label, hold.input, h("span", {}, "steps"), pin),
    hold.error,
  );
  const element = h(
    "article",
    { class: "knob", tabindex: "-1", "aria-labelledby": title },
    h("header", {}, h("h3", { id: title }, name), badge),
    h("div", { class: "present" }, value, h("span", { class: "unit" }, knob.unit), release),
    going,
    progress,
    body,
    status.element,
  );
  element.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && draft) cancel();
    if (event.key === "Enter" && event.target === dialled.input && !apply.disabled) set();
  });

  function edit(result) {
    draft = result;
    if (!busy) status.say("");
    refresh();
  }

  function cancel() {
    draft = null;
    dialled.show(knob.value);
    refresh();
  }

  /** Send it; the card says how it fares, and a sheet too by `also`. */
  async function command(action, done, also = () => {}) {
    const focused = document.activeElement;
    busy = true;
    refresh();
    const ack = await send(context, { name, ...action }, done, (text, kind) => {
      status.say(text, kind);
      also(text, kind);
    });
    busy = false;
    refresh();
    // A disabled button loses the focus: the keyboard goes on from here, not from the top of the page.
    if (document.activeElement === document.body)
      (focused.disabled ? element : focused).focus({ preventScroll: true });
    return ack;
  }

  async function set() {
    const sent = draft;
    const ack = await command({ kind: "set", value: sent.value }, `${name} set to ${number(sent.value)}`);
    if (ack && draft === sent) draft = null; // an edit made since then stays
  }

  async function keep() {
    const ack = await command({ kind: "pin", steps: span.value }, `${name} pinned`);
    if (!ack) return;
    hold.show("");
    span = { value: null };
  }

  function letGo() {
    command({ kind: "release" }, `${name} released`);
  }

  function openSheet(opener) {
    open = opener(context, run, knob, command, () => (open = null));
  }

  function refresh() {
    element.dataset.busy = busy;
    element.dataset.edited = draft !== null;
    apply.disabled = busy || draft === null || Boolean(draft.error) || draft.value === knob.value;
    drop.hidden = draft === null;
    for (const control of moves) control.disabled = busy || knob.value === null;
    release.disabled = busy || hindrance(context, run) !== "";
    pin.disabled = busy || Boolean(span.error);
  }

  return {
    element,
    update(nextRun, nextKnob) {
      [run, knob] = [nextRun, nextKnob];
      const reason = hindrance(context, run);
      body.disabled = reason !== "";
      body.title = reason;
      say(value, knob.value === null ? "–" : number(knob.value));
      const held = knob.owner.startsWith("human:");
      say(badge, held ? holder(run, knob) : "policies");
      badge.dataset.role = role(knob.owner);
      release.hidden = !held;
      const way = underWay(run, knob);
      going.hidden = progress.hidden = way === null;
      if (way) {
        say(going, way.words);
        progress.value = way.part;
      }
      if (busy && run.trying) status.say("sent… waiting: the run is in a trial", "busy");
      if (draft === null && !busy && document.activeElement !== dialled.input) dialled.show(knob.value);
      refresh();
      open?.update(run, knob);
    },
  };
}

function knobDial(knob, edit) {
  return dial(knob, edit, {
    label: `${knob.name}, new value`,
    test: `set-${knob.name}`,
    sliderTest: `slider-${knob.name}`,
  });
}

function options(knob, edit) {
  const names = knob.choices.map((value) => [value, String(value)]);
  const picked = choice(
    `${knob.name}, new value`,
    names,
    knob.value,
    (value) => edit({ value }),
    `set-${knob.name}`,
  );
  return { element: picked.element, show: picked.choose };
}

/** Who holds it, and until when; a pin ends by the steps ever taken, which is told as a step of the run. */
function holder(run, knob) {
  const name = who(knob.owner);
  if (knob.pinned_until === null) return `held by ${name}`;
  const ahead = knob.pinned_until - run.spent;
  return ahead > 0 ? `held by ${name} until step ${count(run.step + ahead)}` : `held by ${name}`;
}

/** Where a ramp or schedule is taking it: words, and the part that is over; null when none is running. */
function underWay(run, { ramp }) {
  const last = ramp?.points.at(-1);
  if (!last || run.step >= last[0]) return null;
  const [step, value, shape] = ramp.points.find(([until]) => until > run.step);
  const corners = ramp.points.filter(([until]) => until > run.step).length;
  const more = corners > 1 ? `, then ${corners - 1} more` : "";
  const goal = `${SHAPE_NAMES[shape]} to ${number(value)} in ${steps(step - run.step)}`;
  return {
    words: `${goal}${more} · ${who(ramp.source)}`,
    part: (run.step - ramp.start) / (last[0] - ramp.start),
  };
}

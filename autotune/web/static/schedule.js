// The sheet that draws a hyperparameter's way ahead: corners to drag, and a table of them that says the same.

import { curve } from "./curve.js";
import { count, h, icon, number, say, svg } from "./dom.js";
import { SHAPE_NAMES, SHAPES, clamp, path, plain, readValue, shapesFor } from "./numbers.js";
import { button, chips, field, hindrance, sheet, statusLine, uid } from "./parts.js";
import { horizonOf, presets, readAhead, running } from "./ways.js";

const HEIGHT = 240;
const HIT = 22; // pixels round a corner that take the finger: 44 across

/** Open the sheet; `command` sends an action, `update(run, knob)` keeps the beginning where the run is. */
export function openSchedule(context, run, knob, command, onclose) {
  let present = knob;
  let busy = false;
  let dragged = null;
  let chosen = null;
  let corners = running(run, knob).map(([step, value, shape]) => corner(step, value, shape));
  if (!corners.length) corners = presets(run, knob, horizonOf(run))[0][1].map((point) => corner(...point));
  let end = { value: Math.max(horizonOf(run), ...corners.map(({ step }) => step)) };

  const picture = curve(knob, HEIGHT);
  picture.element.classList.add("editable");
  picture.element.setAttribute("aria-label", `${knob.name}: the way ahead, step by step`);
  const rows = h("tbody", {});
  const problem = h("p", { class: "field-error", role: "alert" });
  const sentence = h("p", { class: "sentence", id: uid() });
  const status = statusLine();
  const horizon = field({
    ...{ label: "Show until step", inputmode: "numeric", data: { test: `schedule-end-${knob.name}` } },
    read: (text) => readAhead(text, run.step + 1),
    onread(result) {
      end = result;
      refresh();
    },
  });
  horizon.show(String(end.value));
  const start = button("Apply the schedule", {
    ...{ class: "primary", "aria-describedby": sentence.id, data: { test: `schedule-apply-${knob.name}` } },
    onclick: apply,
  });

  /** A corner with its row of the table and its handle in the picture. */
  function corner(step, value, shape = "linear") {
    const made = { step, value, shape, bad: {} };
    const cell = (part, label, read) => {
      const input = field({
        ...{ label, hidden: true, inputmode: part === "step" ? "numeric" : "text", read },
        onread(result) {
          made.bad[part] = result.error;
          if (!result.error) made[part] = result.value;
          refresh();
        },
      });
      input.input.addEventListener("change", sort);
      input.input.addEventListener("focus", () => choose(made));
      return input;
    };
    made.fields = {
      step: cell("step", "step", (text) => readAhead(text, run.step)),
      value: cell("value", "value", (text) => readValue(text, knob)),
    };
    made.shapes = h(
      "select",
      {
        "aria-label": "shape of the way to this point",
        onchange: () => {
          made.shape = made.shapes.value;
          refresh();
        },
      },
      SHAPES.map((name) => h("option", { value: name }, SHAPE_NAMES[name])),
    );
    made.row = h(
      "tr",
      {},
      h("td", {}, made.fields.step.element),
      h("td", {}, made.fields.value.element),
      h("td", {}, made.shapes),
      h(
        "td",
        {},
        button(icon("close"), {
          class: "icon-button",
          "aria-label": "Delete this point",
          onclick: () => remove(made),
        }),
      ),
    );
    made.handle = svg("g", { class: "corner", tabindex: "0", role: "button" });
    made.handle.append(svg("circle", { class: "hit", r: HIT }), svg("circle", { class: "dot", r: 7 }));
    made.handle.addEventListener("pointerdown", (event) => grab(event, made));
    made.handle.addEventListener("keydown", (event) => nudge(event, made));
    made.handle.addEventListener("focus", () => choose(made));
    tell(made);
    return made;
  }

  function tell(made) {
    made.fields.step.show(String(made.step));
    made.fields.value.show(plain(made.value));
    made.shapes.value = made.shape;
    made.bad = {};
  }

  function choose(made) {
    chosen = made;
    for (const each of corners) {
      each.row.classList.toggle("chosen", each === made);
      each.handle.classList.toggle("chosen", each === made);
    }
  }

  function sort() {
    corners.sort((a, b) => a.step - b.step);
    const order = corners.map(({ row }) => row);
    if (order.some((row, i) => rows.children[i] !== row)) rows.replaceChildren(...order);
    refresh();
  }

  function remove(made) {
    const place = corners.indexOf(made);
    corners.splice(place, 1);
    made.row.remove();
    (corners[Math.min(place, corners.length - 1)]?.fields.step.input ?? add).focus();
    refresh();
  }

  /** Move a corner; it stays between its neighbours. */
  function move(made, step, value) {
    const place = corners.indexOf(made);
    const least = (corners[place - 1]?.step ?? run.step) + 1;
    const most = (corners[place + 1]?.step ?? Infinity) - 1;
    made.step = Math.max(least, Math.min(Math.round(step), most));
    made.value = clamp(knob.kind === "int" ? Math.round(value) : value, knob.low, knob.high);
    tell(made);
    refresh();
  }

  function insert(step, value) {
    const made = corner(Math.max(run.step + 1, Math.round(step)), value);
    if (corners.some((other) => other.step === made.step)) return null;
    corners.push(made);
    sort();
    choose(made);
    return made;
  }

  // --- by pointer and by keyboard ---

  const at = (event) => {
    const box = picture.element.getBoundingClientRect();
    const x = clamp(event.clientX - box.left, picture.toX(run.step), picture.toX(end.value));
    return [picture.toStep(x), picture.toValue(event.clientY - box.top)];
  };

  function grab(event, made) {
    event.stopPropagation();
    picture.element.setPointerCapture(event.pointerId);
    dragged = made;
    choose(made);
  }

  picture.element.addEventListener("pointerdown", (event) => {
    const made = end.error ? null : insert(...at(event));
    if (made) grab(event, made);
  });
  picture.element.addEventListener("pointermove", (event) => dragged && move(dragged, ...at(event)));
  for (const over of ["pointerup", "pointercancel"]) {
    picture.element.addEventListener(over, () => {
      if (dragged) dragged.handle.focus();
      dragged = null;
      refresh();
    });
  }

  function nudge(event, made) {
    const far = event.shiftKey ? 10 : 1;
    const across = Math.max(1, Math.round((end.value - run.step) / 200)) * far;
    const y = picture.toY(made.value);
    const to = {
      ArrowLeft: [made.step - across, made.value],
      ArrowRight: [made.step + across, made.value],
      ArrowUp: [made.step, picture.toValue(y - far)],
      ArrowDown: [made.step, picture.toValue(y + far)],
    }[event.key];
    if (to) move(made, ...to);
    else if (event.key === "Delete" || event.key === "Backspace") remove(made);
    else return;
    event.preventDefault();
  }

  // --- what it comes to ---

  const points = () => corners.map(({ step, value, shape }) => [step, value, shape]);

  /** What is wrong, in words; empty when it can be applied. */
  function fault() {
    if (!corners.length) return "A schedule has at least one point; pin a value to hold it.";
    if (corners.some(({ bad }) => bad.step || bad.value)) return "A point is not right yet.";
    const past = corners.find(({ step }) => step <= run.step);
    if (past)
      return `Step ${count(past.step)} is past: the run is at ${count(run.step)}. Move or delete that point.`;
    const twice = corners.find(({ step }, i) => corners.some((other, j) => j > i && other.step === step));
    return twice ? `Two points are at step ${count(twice.step)}; move one of them.` : "";
  }

  function refresh() {
    const begin = [run.step, present.value];
    let from = present.value;
    for (const made of corners) {
      const possible = shapesFor(from, made.value);
      for (const option of made.shapes.options) option.disabled = !possible.includes(option.value);
      if (!possible.includes(made.shape)) made.shapes.value = made.shape = "linear";
      from = made.value;
    }
    const wrong = fault();
    say(problem, wrong);
    start.disabled = wrong !== "" || busy || hindrance(context, run) !== "";
    const legs = points().map(
      ([step, value, shape]) => `to ${number(value)} at step ${count(step)} (${SHAPE_NAMES[shape]})`,
    );
    say(
      sentence,
      wrong
        ? ""
        : `${knob.name} from ${number(begin[1])} ${legs.join(", ")}; then it stays there, held by you.`,
    );
    if (end.error || corners.some(({ step }, i) => step <= (corners[i - 1]?.step ?? run.step))) return;
    const to = Math.max(end.value, ...corners.map(({ step }) => step));
    picture.draw({ start: begin, points: points(), from: run.step, to, held: dragged !== null });
    context.chart.preview(knob.name, wrong ? null : path(begin, points()));
  }

  picture.after = () => {
    for (const made of corners) {
      made.handle.setAttribute(
        "transform",
        `translate(${picture.toX(made.step)} ${picture.toY(made.value)})`,
      );
      const where = `step ${count(made.step)}, value ${number(made.value)}`;
      made.handle.setAttribute("aria-label", `Point at ${where}; arrows move it, Delete removes it`);
    }
    const handles = corners.map(({ handle }) => handle);
    const same =
      handles.length === picture.over.children.length &&
      handles.every((x, i) => picture.over.children[i] === x);
    if (!same) picture.over.replaceChildren(...handles);
  };

  async function apply() {
    busy = true;
    refresh();
    const ack = await command(
      { kind: "schedule", points: points() },
      `Schedule of ${knob.name} begun`,
      status.say,
    );
    busy = false;
    if (ack) dialog.close();
    else refresh();
  }

  function replace(wanted) {
    corners = wanted.map((point) => corner(...point));
    rows.replaceChildren(...corners.map(({ row }) => row));
    choose(null);
    refresh();
  }

  const add = button("Add a point", {
    data: { test: `schedule-add-${knob.name}` },
    onclick() {
      const last = corners.at(-1);
      const made = insert(
        last ? last.step + Math.max(1, (end.value - run.step) / 10) : (run.step + end.value) / 2,
        last?.value ?? present.value,
      );
      made?.fields.step.input.focus();
    },
  });
  const heads = ["Step", "Value", "Shape"].map((text) => h("th", { scope: "col" }, text));
  const dialog = sheet(
    `Schedule ${knob.name}`,
    {
      onclose() {
        context.chart.preview(knob.name, null);
        onclose();
      },
    },
    chips(
      "presets",
      presets(run, knob, horizonOf(run)).map(([label], i) => [
        label,
        () => replace(presets(run, present, end.value ?? horizonOf(run))[i][1]),
      ]),
    ),
    picture.element,
    h("p", { class: "hint" }, "Tap to add a point, drag to move it."),
    h("table", { class: "points" }, h("thead", {}, h("tr", {}, heads, h("td", {}))), rows),
    problem,
    h("div", { class: "row ends" }, add, horizon.element),
    sentence,
    status.element,
    h("footer", {}, start),
  );
  rows.replaceChildren(...corners.map(({ row }) => row));
  refresh();
  return {
    update(next, fresh) {
      [run, present] = [next, fresh];
      if (!dragged) refresh();
    },
  };
}

// The checkpoints of a run: save one, or go back to one; the second tap of a rewind confirms.

import { count, h, icon, number, say } from "./dom.js";
import { bytes, readSteps, steps } from "./numbers.js";
import { button, choice, field, hindrance, send, sheet, statusLine } from "./parts.js";

const NAME = /^[A-Za-z0-9_][A-Za-z0-9._=+-]{0,99}$/; // a file name everywhere; as autotune.checkpoints has it

const DATA = [
  ["replay", "Replay the data"],
  ["skip", "Skip the data"],
];

/** Show the panel in `element`. */
export function mount(element, context) {
  let run = null;
  let shown = "";
  let wanted = { value: null };
  let target = { error: "" };
  const reason = h("p", { class: "reason" });
  const status = statusLine();
  const name = field({
    ...{ label: "Name", placeholder: "optional", maxlength: 100, data: { test: "checkpoint-name" } },
    read: readName,
    onread(result) {
      wanted = result;
      refresh();
    },
  });
  const save = button([icon("save"), "Save now"], { data: { test: "checkpoint-save" }, onclick: keep });
  const to = field({
    ...{
      label: "Step, or the newest state before it",
      inputmode: "numeric",
      data: { test: "rewind-step" },
    },
    read: (text) => readSteps(text, 0),
    onread(result) {
      target = result;
      refresh();
    },
  });
  const back = button([icon("rewind"), "Rewind…"], {
    ...{ data: { test: "rewind-to-step" } },
    onclick: () => confirm(context, run, target.value, target.value, status.say),
  });
  const list = h("ul", { class: "rows" });
  const empty = h("p", { class: "empty" }, "Nothing is saved yet.");
  const body = h(
    "fieldset",
    { class: "bare" },
    h("div", { class: "row asking" }, name.element, save),
    status.element,
    list,
    empty,
    h("div", { class: "row asking" }, to.element, back),
  );
  element.append(reason, body);

  async function keep() {
    const action = { kind: "checkpoint", name: wanted.value };
    save.disabled = true;
    const ack = await send(context, action, `Saved ${wanted.value ?? "a checkpoint"}`, status.say);
    if (ack) {
      name.show("");
      wanted = { value: null };
    }
    refresh();
  }

  function refresh() {
    save.disabled = Boolean(wanted.error);
    back.disabled = target.error !== undefined;
  }

  function row(saved) {
    const facts = [
      `step ${count(saved.step)}`,
      saved.score === null ? null : `score ${number(saved.score)}`,
      bytes(saved.nbytes),
    ];
    return h(
      "li",
      {},
      h(
        "div",
        {},
        h(
          "p",
          { class: "name" },
          saved.name,
          saved.pinned && h("span", { class: "chip" }, icon("pin"), "kept"),
        ),
        h("p", { class: "facts" }, facts.filter(Boolean).join(" · ")),
      ),
      button([icon("rewind"), "Rewind…"], {
        ...{
          data: { test: `rewind-${saved.name}` },
          "aria-label": `Rewind to ${saved.name}, step ${saved.step}`,
        },
        onclick: () => confirm(context, run, saved.name, saved.step, status.say),
      }),
    );
  }

  refresh();
  return {
    update(next) {
      run = next;
      say(reason, hindrance(context, run));
      body.disabled = hindrance(context, run) !== "";
      const content = JSON.stringify(run.checkpoints);
      if (content === shown) return; // so that a button does not go from under the finger
      shown = content;
      const newest = [...run.checkpoints].sort((a, b) => b.step - a.step || b.name.localeCompare(a.name));
      list.replaceChildren(...newest.map(row));
      empty.hidden = newest.length > 0;
    },
  };
}

function readName(text) {
  const value = text.trim();
  if (value === "") return { value: null };
  return NAME.test(value)
    ? { value }
    : { error: "Letters, digits and . _ = + - only, a letter or digit first." };
}

/** The second tap: what would be left behind, and whether the batches since then come again. */
function confirm(context, run, to, step, tell) {
  let data = "replay";
  const status = statusLine();
  const named = typeof to === "string" ? `${to} (step ${count(step)})` : `step ${count(step)}`;
  const behind = run.step - step;
  const cost =
    behind >= 0
      ? `${steps(behind)} are left behind. They stay on record, and on the chart in grey.`
      : `The run is at step ${count(run.step)}: it goes on from a later state, of a branch left behind.`;
  const how = h("p", { class: "hint" });
  const explain = () =>
    say(
      how,
      data === "replay"
        ? "The batches since then come again, in the same order."
        : "The batches since then are left out: training goes on with the data after them.",
    );
  const go = button([icon("rewind"), behind > 0 ? `Rewind ${steps(behind)}` : "Rewind"], {
    ...{ class: "danger", data: { test: "rewind-confirm" } },
    async onclick() {
      go.disabled = true;
      const ack = await send(
        context,
        { kind: "rewind", to, data, then: [] },
        `Rewound to ${named}`,
        (text, kind) => {
          status.say(text, kind);
          tell(text, kind);
        },
      );
      if (ack) dialog.close();
      go.disabled = false;
    },
  });
  explain();
  context.chart.mark(step);
  const dialog = sheet(
    `Rewind to ${named}?`,
    { onclose: () => context.chart.mark(null) },
    h("p", { class: "sentence" }, cost),
    choice("data", DATA, data, (chosen) => explain((data = chosen)), "rewind-data").element,
    how,
    status.element,
    h("footer", {}, button("Stay here", { onclick: () => dialog.close() }), go),
  );
}

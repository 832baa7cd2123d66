// The sheet of one decision: what, who, why, on what evidence, what came of it, and what people say about it.

import { ago, count, describe, h, icon, number, say, who } from "./dom.js";
import { button, field, hindrance, send, sheet, statusLine } from "./parts.js";

// As autotune.executor has it.
const UNDOABLE = new Set(["set", "ramp", "schedule", "pin", "release", "rewind"]);

/** A word in a box: a status or a verdict. */
export const tag = (text, kind) => h("span", { class: "tag", data: { kind } }, text);

const pairs = (rows) =>
  h(
    "dl",
    { class: "evidence" },
    rows.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))),
  );

/** Statistics by name, as a table. */
export function evidence(facts) {
  return pairs(Object.entries(facts).map(([name, value]) => [name, number(value)]));
}

/** Open the sheet of one decision, with its comments and, where that can be, Undo. Returns the dialog. */
export async function openDecision(context, id) {
  const body = h("div", { class: "decision", "aria-busy": "true" }, h("p", { class: "empty" }, "Loading…"));
  const dialog = sheet(`Decision ${id}`, { test: "decision-sheet" }, body);
  const status = statusLine();
  let blocked = "";
  const said = field({
    ...{ label: "Comment", maxlength: 2000, data: { test: "comment-text" } },
    read: (text) => ({ value: text.trim() }),
    onread: refresh,
  });
  const comment = button([icon("comment"), "Add"], { data: { test: "comment-add" }, onclick: add });
  const undo = button([icon("undo"), "Undo"], { data: { test: `undo-${id}` }, onclick: back });

  function refresh(busy = false) {
    said.input.disabled = blocked !== "";
    undo.disabled = busy === true || blocked !== "";
    comment.disabled = undo.disabled || said.input.value.trim() === "";
  }

  async function add() {
    const action = { kind: "comment", decision: id, reason: said.input.value.trim() };
    refresh(true);
    if (await send(context, action, "Comment added", status.say)) {
      said.show("");
      await load();
    }
    refresh();
  }

  async function back() {
    refresh(true);
    const ack = await send(context, { kind: "undo", decision: id }, `Decision ${id} is undone`, status.say);
    if (ack) dialog.close();
    refresh();
  }

  async function load() {
    let decision, run;
    try {
      const { api } = context;
      [decision, run] = await Promise.all([api.decision(context.run, id), api.run(context.run)]);
    } catch (error) {
      say(body.firstChild, error.message);
      return;
    }
    blocked = hindrance(context, run);
    refresh();
    const undoable = UNDOABLE.has(decision.action.kind) && ["applied", "clamped"].includes(decision.status);
    body.removeAttribute("aria-busy");
    body.replaceChildren(
      ...told(decision),
      h("h3", {}, "Comments"),
      h("ul", { class: "comments" }, decision.comments.map(remark)),
      h("div", { class: "row asking" }, said.element, comment),
      h("p", { class: "reason" }, blocked),
      status.element,
      ...(undoable ? [h("footer", {}, undo)] : []),
    );
  }

  await load();
  return dialog;
}

const remark = ({ source, time, action }) =>
  h("li", {}, h("p", { class: "facts" }, `${who(source)} · ${ago(time)}`), h("p", {}, action.reason));

/** All that is on record of a decision, as elements. */
function told(decision) {
  const { action, before, after } = decision;
  const changed = Object.keys(after).map((name) => [
    name,
    `${number(before[name])} → ${number(after[name])}`,
  ]);
  const where = `step ${count(decision.step)}, ${count(decision.spent)} spent, branch ${decision.branch}`;
  const facts = [
    ["by", who(decision.source)],
    ["when", `${new Date(decision.time * 1000).toLocaleString()} · ${where}`],
    ...changed,
    ...(decision.note ? [["note", decision.note]] : []),
  ];
  const parts = [
    h("p", { class: "headline" }, describe(action), " ", tag(decision.status, decision.status)),
    action.reason && h("p", { class: "why" }, action.reason),
    pairs(facts),
  ];
  const { command, ...found } = action.evidence; // the id of a command tells a reader nothing
  if (Object.keys(found).length) parts.push(h("h3", {}, "Evidence"), evidence(found));
  for (const { verdict, horizon, measures } of decision.outcomes ?? []) {
    const head = h("h3", {}, `Outcome after ${count(horizon)} steps `, tag(verdict, `verdict-${verdict}`));
    parts.push(head, evidence(measures));
  }
  return parts.filter(Boolean);
}

// What policies have to say: suggestions that wait for an answer, and who is asked in which order.

import { evidence, openDecision } from "./decision.js";
import { ago, count, describe, h, icon, say, who } from "./dom.js";
import { button, hindrance, send, statusLine } from "./parts.js";

/** Show the suggestions and the policies in `element`. */
export function mount(element, context) {
  const inbox = suggestions(context);
  const order = policies(context);
  const reason = h("p", { class: "reason" });
  const body = h("fieldset", { class: "bare" }, order.element);
  element.append(reason, inbox.element, body);
  return {
    update(run) {
      say(reason, hindrance(context, run));
      body.disabled = hindrance(context, run) !== "";
      inbox.update(run, body.disabled);
      order.update(run);
    },
  };
}

function suggestions(context) {
  const rows = new Map(); // id → row
  const list = h("ul", { class: "rows suggestions" });
  const empty = h("p", { class: "empty" }, "No suggestion waits for an answer.");

  function row(decision) {
    const { id, action } = decision;
    const change = action.kind === "suggest" ? action.action : action; // null: advice in words alone
    const status = statusLine();
    const answer = async (kind, done) => {
      for (const each of buttons) each.disabled = true;
      const ack = await send(context, { kind, decision: id }, done, status.say);
      if (!ack) for (const each of buttons) each.disabled = false;
    };
    const what = describe(change ?? action);
    const buttons = [
      change &&
        button([icon("check"), "Approve"], {
          ...{ class: "primary", data: { test: `approve-${id}` }, "aria-label": `Approve ${what}` },
          onclick: () => answer("approve", `Approved: ${what}`),
        }),
      button([icon("close"), change ? "Reject" : "Dismiss"], {
        ...{ data: { test: `reject-${id}` }, "aria-label": `Reject ${what}` },
        onclick: () => answer("reject", "Turned down"),
      }),
    ].filter(Boolean);
    return h(
      "li",
      {},
      h("p", { class: "name" }, change ? what : "Advice"),
      h(
        "p",
        { class: "facts" },
        `${who(decision.source)} · step ${count(decision.step)} · ${ago(decision.time)}`,
      ),
      h("p", { class: "why" }, action.reason),
      Object.keys(action.evidence).length > 0 &&
        h("details", {}, h("summary", {}, "Evidence"), evidence(action.evidence)),
      h(
        "div",
        { class: "row" },
        h("fieldset", { class: "bare row" }, buttons),
        button("More…", { class: "quiet", onclick: () => openDecision(context, id) }),
      ),
      status.element,
    );
  }

  return {
    element: h("div", {}, list, empty),
    update({ suggestions: waiting }, blocked) {
      for (const id of rows.keys()) {
        if (waiting.some((decision) => decision.id === id)) continue;
        rows.get(id).remove();
        rows.delete(id);
      }
      waiting.forEach((decision, place) => {
        if (!rows.has(decision.id)) rows.set(decision.id, row(decision));
        const wanted = rows.get(decision.id);
        if (list.children[place] !== wanted) list.insertBefore(wanted, list.children[place] ?? null);
        wanted.querySelector("fieldset").disabled = blocked; // what is known of it can still be read
      });
      empty.hidden = waiting.length > 0;
    },
  };
}

/** The order of precedence: the first policy is asked first; those switched off are benched. */
function policies(context) {
  let present = [];
  let draft = null; // [{name, asked}], an edit that has not been applied
  let busy = false;
  let shown = "";
  const status = statusLine();
  const list = h("ol", { class: "rows policies" });
  const apply = button("Apply the order", {
    class: "primary",
    data: { test: "arrange-apply" },
    onclick: arrange,
  });
  const drop = button("Cancel", { class: "quiet", onclick: () => edit(null) });
  const actions = h("div", { class: "row" }, apply, drop);

  const stand = () => present.map(({ name, benched }) => ({ name, asked: benched === null }));

  function edit(next, focus = null) {
    draft = next;
    render();
    if (focus) list.querySelector(`[data-focus="${CSS.escape(focus)}"]`)?.focus();
  }

  function shift(place, by) {
    const next = (draft ?? stand()).map((policy) => ({ ...policy }));
    const [moved] = next.splice(place, 1);
    next.splice(place + by, 0, moved);
    edit(next, `${by < 0 ? "up" : "down"} ${moved.name}`);
  }

  function turn(place, asked) {
    edit(
      (draft ?? stand()).map((policy, i) => (i === place ? { ...policy, asked } : policy)),
      `asked ${(draft ?? stand())[place].name}`,
    );
  }

  async function arrange() {
    const wanted = draft.filter(({ asked }) => asked).map(({ name }) => name);
    busy = true;
    render();
    const ack = await send(
      context,
      { kind: "arrange", policies: wanted },
      "The policies are arranged",
      status.say,
    );
    busy = false;
    if (ack) draft = null;
    render();
  }

  function row({ name, asked }, place, all) {
    const why = present.find((policy) => policy.name === name)?.benched;
    const box = h("input", {
      type: "checkbox",
      role: "switch",
      "data-focus": `asked ${name}`,
      data: { test: `policy-${name}` },
    });
    box.checked = asked;
    box.addEventListener("change", () => turn(place, box.checked));
    const mover = (by, label, symbol) => {
      const end = place + by < 0 || place + by >= all.length;
      return button(icon(symbol), {
        ...{
          class: "icon-button",
          "aria-label": `${name}: ask ${label}`,
          disabled: end,
          "data-focus": `${symbol} ${name}`,
        },
        data: { test: `policy-${symbol}-${name}` },
        onclick: () => shift(place, by),
      });
    };
    return h(
      "li",
      { class: asked ? null : "benched" },
      h(
        "label",
        { class: "switch" },
        box,
        h(
          "span",
          {},
          h("span", { class: "name" }, name),
          !asked && why && h("span", { class: "facts" }, why),
        ),
      ),
      mover(-1, "earlier", "up"),
      mover(1, "later", "down"),
    );
  }

  function render() {
    const order = draft ?? stand();
    list.replaceChildren(...order.map(row));
    actions.hidden = draft === null;
    apply.disabled = busy;
    drop.disabled = busy;
  }

  const element = h(
    "section",
    { class: "precedence" },
    h("h3", {}, "Policies"),
    h("p", { class: "hint" }, "Asked from top to bottom: what one has moved, those below leave alone."),
    list,
    actions,
    status.element,
  );
  return {
    element,
    update(run) {
      const content = JSON.stringify(run.policies);
      if (content === shown) return;
      shown = content;
      present = run.policies;
      element.hidden = present.length === 0;
      if (draft === null) render();
    },
  };
}

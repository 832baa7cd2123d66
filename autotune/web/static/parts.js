// What the panels are built from: buttons, fields, sheets, and the sending of a command.

import { h, icon, outcome, say as write } from "./dom.js";

let ids = 0;

/** A fresh id for labels and descriptions. */
export const uid = () => `part-${++ids}`;

export const button = (label, attributes = {}) => h("button", { type: "button", ...attributes }, label);

/** One of a few choices, as radio buttons in a row; `choose` says which without a change event. */
export function choice(legend, options, chosen, onchange, test = null) {
  const name = uid();
  const inputs = options.map(([value], index) => {
    const input = h("input", {
      type: "radio",
      name,
      value: index,
      data: test ? { test: `${test}-${value}` } : {},
    });
    input.checked = value === chosen;
    input.addEventListener("change", () => onchange(value));
    return input;
  });
  const labels = options.map(([, label], index) => h("label", {}, inputs[index], h("span", {}, label)));
  return {
    element: h("fieldset", { class: "choice", role: "radiogroup", "aria-label": legend }, labels),
    choose: (wanted) => options.forEach(([value], i) => (inputs[i].checked = value === wanted)),
    allow: (values) => options.forEach(([value], i) => (inputs[i].disabled = !values.includes(value))),
  };
}

/**
 * A text field whose content is read at each key: `read(text)` gives `{value}` or `{error}`, which is said
 * beneath it, and `onread` gets both. `show(text)` writes it from outside.
 */
export function field({ label, read, onread, hidden = false, ...attributes }) {
  const [id, note] = [uid(), uid()];
  const error = h("p", { class: "field-error", id: note, role: "alert" });
  const input = h("input", {
    ...{ id, type: "text", autocomplete: "off", autocapitalize: "none", spellcheck: "false" },
    ...{ enterkeyhint: "done", "aria-describedby": note },
    ...attributes,
  });
  const say = (text) => {
    write(error, text ?? "");
    input.setAttribute("aria-invalid", text ? "true" : "false");
  };
  const take = () => {
    const result = read(input.value);
    say(result.error);
    onread(result);
  };
  input.addEventListener("input", take);
  const name = h("label", { for: id, class: hidden && "unseen" }, label);
  return {
    element: h("div", { class: "field" }, name, input, error),
    label: name,
    input,
    error,
    take,
    show(text) {
      if (input.value !== text) input.value = text;
      say(null);
    },
  };
}

/** Short cuts that fill a field: [[label, what it does], …]. */
export const chips = (legend, entries) =>
  h(
    "div",
    { class: "quick", role: "group", "aria-label": legend },
    entries.map(([label, act]) => button(label, { onclick: act })),
  );

/** A modal sheet; the browser keeps the focus inside and gives it back. Returns the dialog, shown. */
export function sheet(title, { test = null, onclose = null }, ...children) {
  const id = uid();
  const dialog = h(
    "dialog",
    { class: "sheet", "aria-labelledby": id, data: test ? { test } : {} },
    h(
      "header",
      {},
      h("h2", { id, tabindex: "-1", autofocus: true }, title), // a field in focus would bring up the keyboard
      button(icon("close"), { class: "icon-button", "aria-label": "Close", onclick: () => dialog.close() }),
    ),
    ...children,
  );
  let outside = false;
  dialog.addEventListener("pointerdown", (event) => (outside = event.target === dialog));
  dialog.addEventListener("click", (event) => outside && event.target === dialog && dialog.close());
  dialog.addEventListener("close", () => {
    dialog.remove();
    onclose?.();
  });
  document.body.append(dialog);
  dialog.showModal();
  return dialog;
}

/** A line that says how a command fares, to screen readers too: `say(text, kind)`. */
export function statusLine() {
  const element = h("p", { class: "status", role: "status" });
  return {
    element,
    say(text, kind = "") {
      write(element, text);
      element.dataset.kind = kind;
    },
  };
}

/** Why nobody can act on this run just now; empty when one can. */
export function hindrance(context, run) {
  if (!context.session.write) return "This link is for looking on: open the page with the full token to act.";
  if (run.status !== "running") return `This run is ${run.status}: nothing can be changed until it goes on.`;
  return "";
}

/**
 * Send a command and say how it fares, by `say(text, kind)` and in a toast.
 *
 * Returns the acknowledgement when it took effect, otherwise null.
 */
export async function send(context, action, done, say) {
  say("sent…", "busy");
  let ack = null;
  let [text, kind] = ["", "bad"];
  try {
    ack = await context.api.command(context.run, action, { waiting: say });
    [text, kind] = outcome(ack, done);
  } catch (error) {
    text = error.message;
  }
  say(text, kind);
  context.toast(text, kind);
  return kind === "bad" ? null : ack;
}

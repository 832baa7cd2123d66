// Elements, numbers and words: what every module of the page needs. Text is set as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/** Make an element: `h("button", {class: "quiet", onclick: f, data: {test: "undo"}}, "Undo")`. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name === "data") Object.assign(element.dataset, value);
    else if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(
    ...children.flat().filter((child) => child !== null && child !== undefined && child !== false),
  );
  return element;
}

/** Make an SVG element. */
export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** One of the symbols of index.html; decoration, so its button needs words or a label. */
export function icon(name) {
  return svg("svg", { class: "icon", "aria-hidden": "true" }, svg("use", { href: `#i-${name}` }));
}

/** Set an element's text, touching the page only when it changes. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** A number as one reads it: 4 significant digits, exponents where they are shorter. */
export function number(value) {
  if (value === null || value === undefined) return "–";
  if (typeof value !== "number") return String(value);
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 1e6 || size < 1e-3)
    return value
      .toExponential(3)
      .replace(/\.?0+e/, "e")
      .replace("e+", "e");
  if (Number.isInteger(value)) return count(value);
  return String(Number(value.toPrecision(4)));
}

/** A whole number with narrow spaces between thousands. */
export function count(value) {
  return String(Math.round(value)).replace(/\B(?=(\d{3})+$)/g, "\u202f");
}

/** A count on an axis: 25k, 1.5M. */
export function short(value) {
  for (const [unit, suffix] of [
    [1e9, "G"],
    [1e6, "M"],
    [1e3, "k"],
  ]) {
    if (Math.abs(value) >= unit) return `${Number((value / unit).toPrecision(4))}${suffix}`;
  }
  return String(Number(value.toPrecision(6)));
}

/** How long ago, in words. */
export function ago(seconds) {
  const since = Date.now() / 1000 - seconds;
  for (const [size, unit] of [
    [86400, "d"],
    [3600, "h"],
    [60, "min"],
  ]) {
    if (since >= size) return `${Math.floor(since / size)} ${unit} ago`;
  }
  return "just now";
}

/** A decision's action in one line: `lr ⇢ 0.0001 in 400 steps (linear)`. */
export function describe(action) {
  const parts = {
    set: () => `${action.name} → ${number(action.value)}`,
    ramp: () => `${action.name} ⇢ ${number(action.value)} in ${count(action.steps)} steps (${action.shape})`,
    schedule: () =>
      [action.name, ...action.points.map(([step, v]) => `⇢ ${number(v)} at ${count(step)}`)].join(" "),
    release: () => `release ${action.name}`,
    pin: () => `pin ${action.name}` + (action.steps === null ? "" : ` for ${count(action.steps)} steps`),
    rewind: () => [`rewind to ${action.to}`, ...action.then.map(describe)].join("; "),
    probe: () => [`try ${count(action.steps)} steps`, ...action.then.map(describe)].join("; "),
    adopt: () => `adopt trial ${action.trial}`,
    checkpoint: () => `checkpoint ${action.name ?? ""}`.trim(),
    suggest: () => (action.action === null ? "advice" : `suggest ${describe(action.action)}`),
    escalate: () => "a person is needed",
    undo: () => (action.decision === null ? "undo" : `undo decision ${action.decision}`),
    approve: () => `approve decision ${action.decision}`,
    reject: () => `reject decision ${action.decision}`,
    comment: () => `comment on decision ${action.decision}`,
    arrange: () => `ask ${action.policies.join(", ") || "no policy"}`,
  };
  return parts[action.kind]?.() ?? action.kind;
}

/** Who decided: the author's name of `human:NAME`, or the policy's. */
export function who(source) {
  return source.startsWith("human:") ? source.slice("human:".length) : source;
}

/** `person`, `supervisor` or `policy`. */
export function role(source) {
  if (source.startsWith("human:")) return "person";
  return source === "supervisor" || source === "tuner" ? "supervisor" : "policy";
}

/** Call `work` once, `wait` milliseconds after the last call. */
export function debounce(work, wait) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, wait);
  };
}

/** A toast's words for how a command ended. */
export function outcome(ack, done) {
  if (ack.status === "applied") return [`${done} at step ${count(ack.step ?? 0)}`, "good"];
  if (ack.status === "clamped") return [`${done}, clamped: ${ack.note}`, "warn"];
  return [ack.note || `The command was ${ack.status}`, "bad"];
}

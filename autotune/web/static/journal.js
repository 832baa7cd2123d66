// The journal: every decision, searchable, newest first.

import { openDecision, tag } from "./decision.js";
import { ago, count, debounce, describe, h, icon, role, say, who } from "./dom.js";
import { button } from "./parts.js";

export { openDecision };

const PAGE = 50;
const TYPING = 250; // milliseconds after the last key

/** Show the panel in `element`. */
export function mount(element, context) {
  let rows = new Map(); // id → {decision, element}
  let more = true;
  let loading = null; // the request under way, by its number
  let asked = 0;
  let known = 0;
  let last = null;
  const search = h("input", {
    ...{
      type: "search",
      placeholder: "Search decisions",
      "aria-label": "Search decisions",
      enterkeyhint: "search",
    },
    ...{ autocomplete: "off", spellcheck: "false", data: { test: "journal-search" } },
    oninput: debounce(restart, TYPING),
  });
  const by = h("select", { "aria-label": "by whom", data: { test: "journal-who" }, onchange: filter });
  const list = h("ul", { class: "rows log" });
  const note = h("p", { class: "empty", role: "status" });
  const again = button("Try again", { onclick: load, hidden: true });
  const foot = h("div", { class: "foot" }, note, again);
  element.append(
    h("div", { class: "row searching" }, h("label", { class: "search" }, icon("search"), search), by),
    list,
    foot,
  );
  choices([]);
  new IntersectionObserver(([entry]) => entry.isIntersecting && load(), { rootMargin: "300px" }).observe(
    foot,
  );

  function restart() {
    rows = new Map();
    list.replaceChildren();
    more = true;
    loading = null;
    load();
  }

  const wanted = (decision) =>
    by.value === "" ||
    by.value === decision.source ||
    (by.value === "people" && role(decision.source) === "person");

  /** The next page, and further ones while their end can be seen: a filter may leave little of each. */
  async function load() {
    if (!more || loading !== null) return;
    const mine = (loading = ++asked);
    const before = rows.size ? Math.min(...rows.keys()) : null;
    again.hidden = true;
    try {
      const page = await context.api.decisions(context.run, {
        before,
        limit: PAGE,
        search: search.value.trim(),
      });
      if (loading !== mine) return; // another search has begun
      take(page.decisions);
      more = page.more;
    } catch (error) {
      if (loading !== mine) return;
      say(note, error.message);
      again.hidden = false;
      loading = null;
      return;
    }
    loading = null;
    sum();
    if (more && foot.getBoundingClientRect().top < innerHeight + 300 && element.isConnected) load();
  }

  /** What is new, and what has changed among the newest: outcomes come later than decisions. */
  async function freshen() {
    if (loading !== null) return; // the next update asks again
    const mine = asked;
    const page = await context.api
      .decisions(context.run, { limit: PAGE, search: search.value.trim() })
      .catch(() => null);
    if (page === null || mine !== asked) return;
    const gap =
      page.more &&
      rows.size > 0 &&
      Math.min(...page.decisions.map(({ id }) => id)) > Math.max(...rows.keys());
    if (gap) return restart();
    take(page.decisions);
    known = last;
    sum();
  }

  function take(decisions) {
    for (const decision of decisions) {
      const old = rows.get(decision.id);
      const content = JSON.stringify(decision);
      if (old?.content === content) continue;
      const line = row(decision);
      rows.set(decision.id, { decision, content, element: line });
      if (old) old.element.replaceWith(line);
      else list.insertBefore(line, following(decision.id));
      line.hidden = !wanted(decision);
    }
    choices([...rows.values()].map(({ decision }) => decision.source));
  }

  /** The row that a decision of this id stands before: the next older one. */
  function following(id) {
    if (list.lastChild === null || Number(list.lastChild.dataset.id) > id) return null;
    return [...list.children].find((line) => Number(line.dataset.id) < id) ?? null;
  }

  function filter() {
    for (const { decision, element: line } of rows.values()) line.hidden = !wanted(decision);
    sum();
    load();
  }

  function sum() {
    const shown = [...rows.values()].some(({ decision }) => wanted(decision));
    say(
      note,
      more
        ? "Loading…"
        : shown
          ? ""
          : search.value || by.value
            ? "Nothing found."
            : "Nothing was decided yet.",
    );
  }

  function choices(sources) {
    const there = new Set([...by.options].map(({ value }) => value));
    const fixed = [
      ["", "Everyone"],
      ["people", "People"],
    ];
    const policies = sources.filter((source) => role(source) !== "person").map((source) => [source, source]);
    for (const [value, label] of [...fixed, ...policies]) {
      if (there.has(value)) continue;
      there.add(value);
      by.append(h("option", { value }, label));
    }
  }

  function row(decision) {
    const verdict = decision.outcomes?.at(-1)?.verdict;
    return h(
      "li",
      { data: { id: decision.id } },
      h(
        "button",
        {
          type: "button",
          data: { test: `decision-${decision.id}` },
          onclick: () => openDecision(context, decision.id),
        },
        h("span", { class: "when" }, count(decision.step)),
        h(
          "span",
          { class: "what" },
          h("span", { class: "name" }, describe(decision.action)),
          h(
            "span",
            { class: "facts" },
            h("span", { class: "who", data: { role: role(decision.source) } }, who(decision.source)),
            ` · ${ago(decision.time)}`,
          ),
        ),
        h(
          "span",
          { class: "tags" },
          tag(decision.status, decision.status),
          verdict && tag(verdict, `verdict-${verdict}`),
        ),
      ),
    );
  }

  return {
    update(run) {
      if (run.last_decision !== last) last = run.last_decision;
      if (rows.size + asked > 0 && known !== last) freshen();
    },
  };
}

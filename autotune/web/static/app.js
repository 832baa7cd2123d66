// The shell: which view the address asks for, the header, the author's name, the theme, toasts.

import { api, ApiError } from "./api.js";
import { compareView } from "./compare.js";
import { h, icon, say } from "./dom.js";
import { listView } from "./list.js";
import { runView } from "./run.js";

const TOAST = 4000; // ms; bad news stays twice as long
const TOASTS = matchMedia("(max-width: 899px)").matches ? 1 : 2; // on a phone it has the header's place
const THEMES = { auto: "auto", light: "sun", dark: "moon" };

const main = document.getElementById("main");
const shell = { api, session, toast, go, title };
let view = null; // {close()} of the view that is shown
let showing = 0;
let begun = null;

/** Show the view of an address of this page. */
function go(address) {
  history.pushState(null, "", address);
  show();
}

async function show() {
  const mine = ++showing;
  view?.close();
  view = null;
  const stage = h("div"); // a view that is still loading when another is asked for draws on its own, unseen
  main.replaceChildren(stage);
  scrollTo(0, 0);
  const [, first, name] = location.pathname.split("/");
  const open = first === "runs" ? runView : first === "compare" ? compareView : listView;
  try {
    const opened = await open(stage, shell, name && decodeURIComponent(name));
    if (mine === showing) view = opened;
    else opened.close();
  } catch (error) {
    if (mine !== showing) return;
    if (!(error instanceof ApiError)) throw error;
    api.onconnection(error.status === 0 ? "reconnecting" : "live");
    const again = h("button", { type: "button", onclick: show }, "Try again");
    main.replaceChildren(h("div", { class: "empty" }, h("p", {}, error.message), again));
  }
}

/** What the browser's tab says. */
function title(words) {
  document.title = `${words} · autotune`;
}

/** Say something for a few seconds, or until it is tapped; kind is `good`, `warn` or `bad`. */
function toast(text, kind = "good") {
  const shown = h("div", { class: `toast ${kind}`, onclick: () => shown.remove() }, text);
  const all = document.getElementById("toasts");
  all.append(shown);
  if (all.children.length > TOASTS) all.firstChild.remove();
  setTimeout(() => shown.remove(), kind === "bad" ? 2 * TOAST : TOAST);
}

/** Who is there; asked once, and again when that failed. */
function session() {
  begun ??= begin().catch((error) => {
    begun = null;
    throw error;
  });
  return begun;
}

async function begin() {
  const session = await api.session();
  const field = document.getElementById("author");
  api.author = field.value = localStorage.getItem("autotune-author") || session.user;
  field.disabled = false; // what is typed earlier would be lost
  field.addEventListener("change", () => {
    api.author = field.value = field.value.trim().replaceAll(":", "") || session.user;
    localStorage.setItem("autotune-author", api.author);
  });
  if (!session.write) field.closest("label").replaceWith(h("span", { class: "chip" }, "read only"));
  return session;
}

const theme = {
  button: document.getElementById("theme"),
  chosen: localStorage.getItem("autotune-theme") ?? "auto",

  apply() {
    if (!(this.chosen in THEMES)) this.chosen = "auto";
    document.documentElement.dataset.theme = this.chosen;
    this.button.replaceChildren(icon(THEMES[this.chosen]));
    this.button.setAttribute("aria-label", `Theme: ${this.chosen}`);
    dispatchEvent(new Event("theme")); // a canvas does not follow the style sheet by itself
  },

  next() {
    const names = Object.keys(THEMES);
    this.chosen = names[(names.indexOf(this.chosen) + 1) % names.length];
    localStorage.setItem("autotune-theme", this.chosen);
    this.apply();
  },
};

theme.button.addEventListener("click", () => theme.next());
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme.apply());
theme.apply();

api.onconnection = (state) => {
  const label = document.getElementById("connection");
  say(label, state);
  label.dataset.state = state;
};

document.addEventListener("click", (event) => {
  const link = event.target.closest?.("a[data-link], a[href^='#']");
  if (!link || event.button || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  if (link.matches("[data-link]")) return go(link.href);
  const target = document.getElementById(link.hash.slice(1)); // a change of the address would open the view anew
  target.scrollIntoView();
  target.focus({ preventScroll: true });
});
addEventListener("popstate", show);
show();

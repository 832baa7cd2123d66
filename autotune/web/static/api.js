// The server: requests, commands with their acknowledgement, and the one stream of events of this tab.

const BACKOFF = [500, 1000, 2000, 4000, 8000];
const SETTLED = new Set(["applied", "clamped", "refused", "failed"]);
const POLL = 1000;
const PATIENCE = 5000; // ms without an answer, after which a command, or what became of it, is asked for again
const UNCONFIRMED = "Not confirmed: the server cannot be reached. It is sent again when the connection is back.";
const UNANSWERED = "Sent, but the server cannot be reached now: what became of it is shown when it is back.";
const UNKNOWN = "The server was not reached, and nothing is known of the command: look in the journal.";

/** The server said no, or could not be reached (`status` 0). */
export class ApiError extends Error {
  constructor(message, status) {
    super(message);
    this.status = status;
  }
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", cache: "no-store", ...options });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ApiError("The server cannot be reached", 0);
  }
  const body = await response.json().catch(() => ({}));
  if (response.status === 401) location.reload(); // the server answers with the page that asks for a token
  if (!response.ok)
    throw new ApiError(body.error ?? `The server answered ${response.status}`, response.status);
  return body;
}

const path = (run, rest = "") => `/api/runs/${encodeURIComponent(run)}${rest}`;

function query(parameters) {
  const given = Object.entries(parameters).filter(
    ([, value]) => value !== undefined && value !== null && value !== "",
  );
  return given.length ? `?${new URLSearchParams(given)}` : "";
}

const unanswered = new Map(); // id of a command → what takes its ack

/** Thirty-two hexadecimal digits. */
function commandId() {
  return [...crypto.getRandomValues(new Uint8Array(16))]
    .map((byte) => byte.toString(16).padStart(2, "0"))
    .join("");
}

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Send it until it has arrived or expired: the same id is the same command, which is done once. */
async function post(run, command, expires, tell) {
  for (;;) {
    const expires_in = (expires - Date.now()) / 1000;
    if (expires_in <= 0) throw new ApiError(UNKNOWN, 0);
    try {
      return await request(path(run, "/commands"), {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ ...command, expires_in }),
        signal: AbortSignal.timeout(PATIENCE),
      });
    } catch (error) {
      if (error.status !== 0) throw error;
    }
    tell(UNCONFIRMED, "warn");
    await pause(POLL);
  }
}

async function settled(run, id, expires, tell) {
  const arrived = new Promise((resolve) => unanswered.set(id, resolve));
  const ask = () =>
    request(path(run, `/commands/${id}`), { signal: AbortSignal.timeout(PATIENCE) }).catch((error) => error);
  try {
    for (;;) {
      const ack = await Promise.race([arrived, pause(POLL)]); // the stream may be down: ask as well
      if (ack) return ack;
      const asked = await Promise.race([arrived, ask()]);
      if (SETTLED.has(asked.status)) return asked;
      if (asked.status === 0) tell(UNANSWERED, "warn");
      if (asked.status === "waiting") tell(asked.note ? `sent… waiting: ${asked.note}` : "sent…", "busy");
      if (Date.now() > expires)
        return { command: id, status: "failed", note: asked.note || "Nobody has answered" };
    }
  } finally {
    unanswered.delete(id);
  }
}

export const api = {
  author: "",
  get: request,
  session: () => request("/api/session"),
  runs: () => request("/api/runs"),
  run: (name) => request(path(name)),
  series: (name, parameters, signal) => request(path(name, `/series${query(parameters)}`), { signal }),
  decisions: (name, parameters = {}) => request(path(name, `/decisions${query(parameters)}`)),
  decision: (name, id) => request(path(name, `/decisions/${id}`)),

  /**
   * Send a command to a run and wait for what becomes of it.
   *
   * @param {string} run its name
   * @param {object} action as JSON, with its kind; `reason` may be left out
   * @param {{expires_in?: number, waiting?: (words: string, kind: string) => void}} options seconds;
   *   who is told how it stands, whenever that changes
   * @returns {Promise<object>} the settled ack
   * @throws {ApiError} when the server does not take it
   */
  async command(run, action, { expires_in = 600, waiting = () => {} } = {}) {
    const id = commandId();
    const whole = { reason: "", evidence: {}, ...action };
    const expires = Date.now() + expires_in * 1000;
    let told = "sent…";
    const tell = (words, kind) => words !== told && waiting((told = words), kind);
    await post(run, { id, author: api.author, action: whole }, expires, tell);
    tell("sent…", "busy");
    return settled(run, id, expires + PATIENCE, tell);
  },

  /**
   * Follow a run, or (null) the list of runs. There is one stream a tab: following another ends the first.
   *
   * @param {string | null} run
   * @param {Record<string, (data: object) => void>} handlers by event; `open` after each (re)connection
   */
  follow(run, handlers) {
    stream.address = run === null ? "/api/events" : path(run, "/events");
    stream.handlers = handlers;
    stream.close();
    stream.open();
  },

  /** Called with `live` or `reconnecting` whenever the stream changes. */
  onconnection: () => {},
};

const stream = {
  source: null,
  address: null,
  handlers: {},
  failures: 0,
  timer: 0,

  open() {
    if (document.hidden || this.address === null || this.source !== null) return;
    const source = (this.source = new EventSource(this.address));
    source.onopen = () => {
      this.failures = 0;
      api.onconnection("live");
      this.handlers.open?.({});
    };
    source.onerror = () => {
      this.close();
      api.onconnection("reconnecting");
      const wait = BACKOFF[Math.min(this.failures++, BACKOFF.length - 1)];
      this.timer = setTimeout(() => this.retry(), wait);
    };
    for (const event of ["state", "runs", "ack"]) {
      source.addEventListener(event, ({ data }) => this.take(event, JSON.parse(data || "{}")));
    }
  },

  async retry() {
    // An event source does not say why it failed: a lost session shows in an ordinary request.
    await api.session().catch(() => null);
    this.open();
  },

  take(event, data) {
    if (event === "ack" && SETTLED.has(data.status)) unanswered.get(data.command)?.(data);
    this.handlers[event]?.(data);
  },

  close() {
    clearTimeout(this.timer);
    this.source?.close();
    this.source = null;
  },
};

// A browser has six connections to a server, for all its tabs: those that nobody looks at give theirs up.
document.addEventListener("visibilitychange", () => (document.hidden ? stream.close() : stream.open()));
addEventListener("pagehide", () => stream.close());

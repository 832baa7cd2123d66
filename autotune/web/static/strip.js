// The strip of decision marks under a chart: colour and shape say who, a tap opens the evidence.

import { count, describe, h, role, who } from "./dom.js";
import { GUTTER, MARGIN } from "./plot.js";

const REACH = 24; // px from a mark at which a tap still means it
const LANES = { person: -1, policy: 0, supervisor: 1 }; // from top to bottom
const SIZE = 4; // px, half a mark

/** Marks of decisions on a canvas that follows the charts' range. */
export class Strip {
  /**
   * @param {import("./chart.js").Charts} charts
   * @param {(id: number) => void} open
   */
  constructor(charts, open) {
    this.charts = charts;
    this.open = open;
    this.decisions = []; // oldest first
    this.chosen = null; // id of the one that the keys point at
    this.canvas = h("canvas");
    this.element = h(
      "div",
      {
        class: "strip",
        tabindex: 0,
        role: "slider",
        "aria-label": "Decisions",
        "aria-valuemin": 0,
        data: { test: "marks" },
      },
      this.canvas,
    );
    this.element.addEventListener("click", (event) => this.tapped(event));
    this.element.addEventListener("keydown", (event) => this.key(event));
    this.watch = new ResizeObserver(() => this.draw());
    this.watch.observe(this.element);
    this.say();
  }

  /** Take decisions; those known already are replaced. */
  take(decisions) {
    const known = new Map(this.decisions.map((decision) => [decision.id, decision]));
    for (const decision of decisions)
      if (decision.action.kind !== "comment") known.set(decision.id, decision);
    this.decisions = [...known.values()].sort((a, b) => a.id - b.id);
    this.say();
    this.draw();
  }

  at(decision) {
    const [low, high] = this.charts.range();
    const width = this.element.clientWidth - GUTTER - MARGIN;
    return GUTTER + ((decision[this.charts.axis] - low) / (high - low)) * width;
  }

  /** The height at which a mark is drawn: people above, policies in the middle, the supervisor below. */
  lane({ source }) {
    const height = this.element.clientHeight;
    return height / 2 + LANES[role(source)] * (height / 3.2);
  }

  shown() {
    const right = this.element.clientWidth - MARGIN;
    return this.decisions.filter(
      (decision) => this.at(decision) >= GUTTER - 1 && this.at(decision) <= right + 1,
    );
  }

  draw() {
    const { clientWidth: width, clientHeight: height } = this.element;
    if (!width) return;
    const ratio = devicePixelRatio;
    if (this.canvas.width !== width * ratio || this.canvas.height !== height * ratio) {
      this.canvas.width = width * ratio;
      this.canvas.height = height * ratio;
    }
    const ctx = this.canvas.getContext("2d");
    ctx.setTransform(ratio, 0, 0, ratio, 0, 0);
    ctx.clearRect(0, 0, width, height);
    for (const decision of this.shown()) this.drawMark(ctx, decision, this.at(decision), this.lane(decision));
  }

  /** A person's is round, a policy's a diamond, the supervisor's a square; hollow: nothing was changed. */
  drawMark(ctx, decision, x, y) {
    const kind = role(decision.source);
    const done = decision.status === "applied" || decision.status === "clamped";
    ctx.beginPath();
    if (kind === "person") ctx.arc(x, y, SIZE, 0, 2 * Math.PI);
    else if (kind === "supervisor") ctx.rect(x - SIZE + 0.5, y - SIZE + 0.5, 2 * SIZE - 1, 2 * SIZE - 1);
    else
      for (const [dx, dy] of [
        [0, -1],
        [1, 0],
        [0, 1],
        [-1, 0],
      ])
        ctx.lineTo(x + dx * (SIZE + 0.5), y + dy * (SIZE + 0.5));
    ctx.closePath();
    ctx.fillStyle = done ? this.charts.colour(kind) : this.charts.colour("surface");
    ctx.strokeStyle = this.charts.colour(done ? "surface" : kind);
    ctx.lineWidth = 1.2;
    ctx.fill();
    ctx.stroke();
    if (decision.id === this.chosen && document.activeElement === this.element) {
      ctx.strokeStyle = this.charts.colour("ink");
      ctx.strokeRect(x - SIZE - 3, y - SIZE - 3, 2 * SIZE + 6, 2 * SIZE + 6);
    }
  }

  tapped(event) {
    const { left, top } = this.element.getBoundingClientRect();
    const away = (decision) =>
      Math.hypot(this.at(decision) - event.clientX + left, this.lane(decision) - event.clientY + top);
    const near = this.shown().map((decision) => ({ decision, away: away(decision) }));
    near.sort((a, b) => a.away - b.away || b.decision.id - a.decision.id);
    if (near.length && near[0].away <= REACH) this.choose(near[0].decision, true);
  }

  key(event) {
    const all = this.shown();
    if (!all.length) return;
    const place = all.findIndex((decision) => decision.id === this.chosen);
    const last = all.length - 1;
    const to = {
      ArrowLeft: Math.max(0, place < 0 ? last : place - 1),
      ArrowRight: place < 0 ? 0 : Math.min(last, place + 1),
      Home: 0,
      End: last,
    };
    if (event.key in to) this.choose(all[to[event.key]], false);
    else if ((event.key === "Enter" || event.key === " ") && place >= 0) this.choose(all[place], true);
    else return;
    event.preventDefault();
  }

  choose(decision, opens) {
    this.chosen = decision.id;
    this.say();
    this.draw();
    if (opens) this.open(decision.id);
  }

  say() {
    const place = this.decisions.findIndex((decision) => decision.id === this.chosen);
    const decision = this.decisions[place];
    const words = decision
      ? `${who(decision.source)}: ${describe(decision.action)}, ${decision.status}, step ${count(decision.step)}`
      : `${this.decisions.length} decisions; arrow keys choose one, Enter opens it`;
    this.element.setAttribute("aria-valuemax", String(this.decisions.length));
    this.element.setAttribute("aria-valuenow", String(place + 1));
    this.element.setAttribute("aria-valuetext", words);
  }

  close() {
    this.watch.disconnect();
  }
}

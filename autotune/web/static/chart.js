// The charts of a view: they share the range of the x axis, the cursor, what is fetched and what lies ahead.

import { debounce } from "./dom.js";
import { path } from "./numbers.js";
import { Plot } from "./plot.js";

const MARGIN = 0.5; // of the range, fetched on either side too, so that a pan has something to show
const SETTLE = 120; // ms after the last move of the range before it is fetched anew
const REFRESH = 1000; // ms between two looks at a run that goes on
const AHEAD = 0.25; // of what there is, shown beyond it while a ramp is running
const NARROW = 20; // steps; no zoom goes closer

let groups = 0;

export class Charts {
  /**
   * @param {object} api
   * @param {HTMLElement} element which the class of the theme is read from
   */
  constructor(api, element) {
    this.api = api;
    this.element = element;
    this.key = `charts-${++groups}`;
    this.plots = [];
    this.axis = localStorage.getItem("autotune-axis") === "spent" ? "spent" : "step";
    this.smoothing = Number(localStorage.getItem("autotune-smoothing") ?? 0.6);
    this.view = null; // null: all there is, growing with the run
    this.runs = new Map(); // name → {step, spent}
    this.previews = new Map(); // hyperparameter → points of the schedule editor
    this.running = new Map(); // hyperparameter → points of the ramp that is running
    this.marked = null;
    this.onchange = () => {};
    this.colours = new Map();
    this.wanted = new AbortController();
    this.settle = debounce(() => this.anew(), SETTLE);
    this.seen = new IntersectionObserver((entries) => this.noticed(entries), { rootMargin: "200px" });
    this.onTheme = () => {
      this.colours.clear();
      for (const plot of this.plots) plot.restyle();
      this.onchange();
    };
    addEventListener("theme", this.onTheme);
  }

  /** Add a chart to `element`; see `Plot` for what `spec` says. */
  add(element, spec) {
    const plot = new Plot(this, element, spec);
    plot.stale = true;
    this.plots.push(plot);
    this.seen.observe(plot.frame);
    return plot;
  }

  noticed(entries) {
    for (const { target, isIntersecting } of entries) {
      const plot = this.plots.find((each) => each.frame === target);
      if (plot) plot.visible = isIntersecting;
    }
    const late = this.plots.filter((plot) => plot.visible && plot.stale);
    if (late.length) this.fetch(late);
  }

  /** Take how a run stands; what is shown follows it. */
  follow(run) {
    const before = this.runs.get(run.name);
    this.runs.set(run.name, { step: run.step, spent: run.spent });
    if (run.hyperparameters) {
      this.running.clear();
      for (const { name, ramp, value } of run.hyperparameters) {
        if (!ramp || ramp.points.at(-1)[0] <= run.step) continue;
        const ahead = path([ramp.start, ramp.first], ramp.points).filter(([step]) => step > run.step);
        this.running.set(name, [[run.step, value], ...ahead]);
      }
    }
    const moved = before && (before.spent !== run.spent || before.step !== run.step);
    if (this.view === null) this.paint();
    if (moved && this.range()[1] >= before[this.axis]) this.soon();
  }

  /** Fetch again, a second after the last time was over. */
  soon() {
    this.timer ??= setTimeout(async () => {
      await this.fetching;
      await this.refresh();
      this.timer = undefined;
    }, REFRESH);
  }

  /** Fetch for a range or an axis that is new; what was asked for the one before is of no use any more. */
  anew() {
    this.wanted.abort();
    this.wanted = new AbortController();
    return this.refresh();
  }

  /** Fetch everything that is visible now. */
  refresh() {
    for (const plot of this.plots) plot.stale = true;
    return this.fetch(this.plots.filter((plot) => plot.visible));
  }

  fetch(plots) {
    return (this.fetching = this.load(plots, this.wanted.signal));
  }

  async load(plots, signal) {
    if (!plots.length) return;
    const asked = { axis: this.axis, points: this.points() };
    if (this.view !== null) {
      const [low, high] = this.view;
      const margin = MARGIN * (high - low);
      Object.assign(asked, { from: Math.floor(Math.max(0, low - margin)), to: Math.ceil(high + margin) });
      asked.points *= 1 + 2 * MARGIN;
    }
    try {
      await Promise.all(
        [...this.runs.keys()].map(async (run) => {
          const names = new Set(
            plots.flatMap((plot) => plot.curves.filter((c) => c.run === run).map((c) => c.signal)),
          );
          if (!names.size) return;
          const { series } = await this.api.series(run, { names: [...names].join(","), ...asked }, signal);
          if (signal.aborted) return;
          for (const plot of plots) plot.take(run, series);
        }),
      );
    } catch (error) {
      if (error.name !== "AbortError" && !("status" in error)) throw error; // the stream says when it is back
    }
  }

  /** The pixels that a curve has; the server chooses how many points it takes to fill them. */
  points() {
    const width = Math.max(...this.plots.map((plot) => plot.frame.clientWidth));
    return Math.max(200, Math.round(width));
  }

  // --- the shared range ----------------------------------------------------------------------------------

  /** The range of the x axis. */
  range() {
    return this.view ?? [0, this.end()];
  }

  end() {
    const now = Math.max(10, ...[...this.runs.values()].map((run) => run[this.axis]));
    const last = (points) => this.along(points.at(-1)[0]);
    const running = Math.max(0, ...[...this.running.values()].map(last));
    const drawn = Math.max(0, ...[...this.previews.values()].map(last));
    return Math.max(now, Math.min(running, now * (1 + AHEAD)), drawn);
  }

  /** Show [low, high]; all there is, where that is more. */
  zoom(low, high) {
    const end = this.end();
    const span = Math.max(NARROW, high - low);
    if (span >= end) return this.reset();
    const left = Math.max(0, Math.min(low, end - span));
    this.view = [left, left + span];
    this.paint();
    this.settle();
  }

  reset() {
    this.view = null;
    this.paint();
    this.settle();
  }

  /** `step` or `spent`. */
  along(step) {
    if (this.axis === "step") return step;
    const run = [...this.runs.values()][0];
    return step + (run ? run.spent - run.step : 0);
  }

  by(axis) {
    localStorage.setItem("autotune-axis", axis);
    this.axis = axis;
    this.view = null;
    this.anew();
  }

  softly(strength) {
    localStorage.setItem("autotune-smoothing", strength);
    this.smoothing = strength;
    for (const plot of this.plots) if (plot.curves.some((curve) => curve.smoothed)) plot.restyle();
  }

  paint() {
    this.painting ??= requestAnimationFrame(() => {
      this.painting = undefined;
      for (const plot of this.plots) if (plot.visible) plot.redraw();
      this.onchange();
    });
  }

  // --- what is drawn beside the curves -------------------------------------------------------------------

  /** Show a schedule that is being edited, `[[step, value], …]`, or (null) no more. */
  preview(name, points) {
    if (points?.length) this.previews.set(name, points);
    else this.previews.delete(name);
    this.paint();
  }

  /** Point at a step, or (null) at none. */
  mark(step) {
    this.marked = step;
    this.paint();
  }

  previewsOf(name) {
    const shown = [];
    const add = (points, colour) =>
      points && shown.push({ points: points.map(([x, y]) => [this.along(x), y]), colour });
    if (!this.previews.has(name)) add(this.running.get(name), "ahead");
    add(this.previews.get(name), "accent");
    return shown;
  }

  /** Vertical lines: where the run stands, while something lies ahead, and the step that is pointed at. */
  lines() {
    const lines = [];
    const [run] = this.runs.values();
    if (run && (this.running.size || this.previews.size)) lines.push([run[this.axis], "ahead"]);
    if (this.marked !== null) lines.push([this.along(this.marked), "accent"]);
    return lines;
  }

  /** Stretches of the x axis where steps were taken that the run has left: rewound, or only tried out. */
  bands() {
    if (this.runs.size !== 1) return [];
    const known = this.plots.filter((plot) => plot.axis === this.axis);
    const lost = known.flatMap((plot) => plot.lost()).filter((part) => part.x.length > 1);
    const each = lost.map(({ x }) => [x[0] - 1, x.at(-1)]).sort((a, b) => a[0] - b[0]);
    const bands = [];
    for (const [from, to] of each) {
      const before = bands.at(-1);
      if (before && from <= before[1]) before[1] = Math.max(before[1], to);
      else bands.push([from, to]);
    }
    return bands;
  }

  /** A colour of the style sheet, as a canvas takes it. */
  colour(name) {
    if (!this.colours.has(name)) {
      const probe = document.createElement("i");
      probe.className = `colour-${name}`;
      this.element.append(probe);
      this.colours.set(name, getComputedStyle(probe).color);
      probe.remove();
    }
    return this.colours.get(name);
  }

  close() {
    removeEventListener("theme", this.onTheme);
    clearTimeout(this.timer);
    cancelAnimationFrame(this.painting);
    this.wanted.abort();
    this.seen.disconnect();
    for (const plot of this.plots) plot.close();
    this.plots = [];
  }
}

// One chart: live curves by uPlot, and by hand on its canvas what was abandoned and what is ahead.

/* global uPlot */
import { h, number, say, short } from "./dom.js";
import { gestures } from "./gestures.js";
import { extent, joined, label, smooth, spread, ticks } from "./scale.js";

export const GUTTER = 54; // px left of every plotting area, so that all charts and the strip of marks align
export const MARGIN = 18; // px right of it
const FOOT = 30; // px above and below the plotting area
const TICK = 25; // px a label of the y axis takes
const LEAST = 0.01; // of the values, the least that an axis spans: its labels stay short, and differ
const FEW = 60; // values that are drawn as points too
const SOFT = 1 / 80; // width of the smoothing over the visible range at strength 1

/**
 * A chart within a group that shares its x axis.
 *
 * `spec.curves` are `{run, signal, label, colour, smoothed, stairs}`; `spec.hyperparameter` names
 * the one whose previews are drawn; `spec.log` is true, false, or `auto`: as the values are spread.
 */
export class Plot {
  constructor(group, element, spec) {
    this.group = group;
    this.spec = spec;
    this.curves = spec.curves.map((curve) => ({ ...curve, parts: [], x: [], y: [], soft: null }));
    this.visible = false;
    this.axis = null; // the one that the parts are over
    this.hover = null; // x under the cursor
    this.keys = this.curves.map((curve) => {
      const value = h("b", { class: "num" });
      return { value, element: h("span", { class: `key ${curve.colour}` }, h("i"), curve.label, value) };
    });
    this.legend = h("div", { class: "keys", "aria-hidden": "true" }, ...this.keys.map((key) => key.element));
    this.frame = h("div", {
      class: `plot ${spec.size ?? ""}`,
      tabindex: 0,
      role: "img",
      "aria-label": spec.title,
      data: { chart: spec.title },
    });
    element.append(this.legend, this.frame);
    this.watch = new ResizeObserver(() => this.resize());
    this.watch.observe(this.frame);
  }

  /** Take the parts of one run's signals, as the server sends them. */
  take(run, series) {
    this.axis = this.group.axis;
    for (const curve of this.curves) {
      if (curve.run !== run || !series[curve.signal]) continue;
      curve.parts = series[curve.signal];
      Object.assign(curve, joined(curve.parts, this.group.axis === "spent"));
    }
    this.rebuild();
  }

  /** Choose the scale, smooth, and give uPlot the data. */
  rebuild() {
    this.stale = false;
    const all = this.curves.flatMap((curve) => curve.y);
    this.logarithmic = this.spec.log === "auto" ? spread(all) : this.spec.log === true;
    const unit = this.logarithmic ? (v) => (v > 0 ? Math.log10(v) : null) : (v) => v;
    this.unit = (value) => (value === null ? null : unit(value));
    const [low, high] = this.group.range();
    const width = (high - low) * SOFT * this.group.smoothing;
    const tables = this.curves.map((curve) => {
      const columns = [curve.x, curve.y.map(this.unit)];
      curve.soft = curve.smoothed && width > 0 ? smooth(curve.x, curve.y, width).map(this.unit) : null;
      if (curve.smoothed) columns.push(curve.soft ?? new Array(curve.x.length).fill(null));
      return columns;
    });
    this.data = uPlot.join(tables);
    if (!this.chart) this.build();
    else this.chart.setData(this.data, false);
    this.redraw();
  }

  build() {
    const { width, height } = this.frame.getBoundingClientRect();
    if (!width || !window.uPlot) return;
    const series = [{}];
    for (const curve of this.curves) {
      const colour = this.group.colour(curve.colour);
      const paths = curve.stairs ? uPlot.paths.stepped({ align: 1 }) : uPlot.paths.linear();
      const sparse = () => !curve.stairs && !curve.smoothed && curve.x.length <= FEW;
      const common = { paths, points: { show: sparse, size: 5, stroke: colour, fill: colour } };
      const raw = curve.smoothed && this.group.smoothing > 0;
      series.push({ ...common, stroke: colour, alpha: raw ? 0.22 : 1, width: raw ? 1 : (curve.wide ?? 1.5) });
      if (curve.smoothed) series.push({ ...common, stroke: colour, width: 1.8 });
    }
    const ink = this.group.colour("soft");
    const grid = { stroke: this.group.colour("grid"), width: 1 };
    const font = "11px system-ui, sans-serif";
    this.chart = new uPlot(
      {
        width,
        height,
        legend: { show: false },
        padding: [8, MARGIN, 0, 0],
        series,
        scales: { x: { time: false, range: () => this.group.range() }, y: { range: () => this.vertical() } },
        axes: [
          {
            stroke: ink,
            grid,
            ticks: { show: false },
            font,
            size: 22,
            gap: 4,
            space: 64,
            values: (u, at) => at.map(short),
          },
          {
            stroke: ink,
            grid,
            ticks: { show: false },
            font,
            size: GUTTER,
            gap: 6,
            splits: (u, axis, low, high) =>
              ticks(low, high, Math.max(2, Math.floor((u.height - FOOT) / TICK)), this.logarithmic),
            values: (u, at) => at.map((value) => label(this.logarithmic ? 10 ** value : value)),
          },
        ],
        cursor: {
          y: false,
          points: { show: false },
          sync: { key: this.group.key, setSeries: false, scales: ["x", null] },
          drag: { x: true, y: false, setScale: false },
          bind: {
            // With shift it pans.
            mousedown: (u, target, handler) => (event) => (event.shiftKey ? null : handler(event)),
            dblclick: () => () => this.group.reset(),
          },
        },
        hooks: {
          drawAxes: [(u) => this.beneath(u)],
          draw: [(u) => this.above(u)],
          setCursor: [
            (u) => this.read((this.hover = u.cursor.left >= 0 ? u.posToVal(u.cursor.left, "x") : null)),
          ],
          setSelect: [(u) => this.selected(u)],
        },
      },
      this.data,
      this.frame,
    );
    this.frame.dataset.drawn = "true";
    gestures(this.chart.over, this.frame, this.group);
    this.read(this.hover);
  }

  /** Throw the drawing away and make it anew: the colours have changed. */
  restyle() {
    this.chart?.destroy();
    this.chart = null;
    if (this.data) this.rebuild();
  }

  resize() {
    const { width, height } = this.frame.getBoundingClientRect();
    if (!width) return;
    if (!this.chart && this.data) this.build();
    else this.chart?.setSize({ width, height });
  }

  redraw() {
    const [min, max] = this.group.range();
    this.chart?.setScale("x", { min, max });
    this.read(this.hover);
  }

  selected(u) {
    if (u.select.width < 4) return;
    this.group.zoom(u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x"));
    u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
  }

  /** The range of the y axis: what is live and visible; what was abandoned may widen it a little. */
  vertical() {
    const [from, to] = this.group.range();
    let low = Infinity;
    let high = -Infinity;
    const include = (range) => range && ([low, high] = [Math.min(low, range[0]), Math.max(high, range[1])]);
    for (const curve of this.curves) {
      const within = (_, i) => curve.x[i] >= from && curve.x[i] <= to;
      include(extent(curve.y.filter(within).map(this.unit), curve.soft !== null));
      if (curve.soft) include(extent(curve.soft.filter(within), false));
    }
    for (const { points } of this.group.previewsOf(this.spec.hyperparameter)) {
      include(
        extent(
          points.filter(([x]) => x >= from && x <= to).map(([, y]) => this.unit(y)),
          false,
        ),
      );
    }
    const lost = extent(
      this.lost().flatMap((part) =>
        part.y.filter((_, i) => part.x[i] >= from && part.x[i] <= to).map(this.unit),
      ),
      true,
    );
    if (lost) {
      const room = Number.isFinite(low) ? 0.15 * (high - low) : Infinity;
      include([Math.max(lost[0], low - room), Math.min(lost[1], high + room)]);
    }
    if (!Number.isFinite(low)) return [0, 1];
    const size = Math.max(Math.abs(low), Math.abs(high));
    const lacking = (this.logarithmic ? LEAST / Math.LN10 : LEAST * size) - (high - low);
    const pad = high > low ? Math.max((high - low) * 0.06, lacking / 2) : size * 0.1 || 1;
    return [low - pad, high + pad];
  }

  lost() {
    return this.curves.flatMap((curve) => curve.parts.filter((part) => !part.live));
  }

  // --- on the canvas -------------------------------------------------------------------------------------

  clipped(u, work) {
    const { left, top, width, height } = u.bbox;
    u.ctx.save();
    u.ctx.beginPath();
    u.ctx.rect(left, top, width, height);
    u.ctx.clip();
    work(u.ctx, { left, top, width, height });
    u.ctx.restore();
  }

  line(u, points) {
    u.ctx.beginPath();
    let pen = false;
    for (const [x, y] of points) {
      if (y === null) {
        pen = false;
        continue;
      }
      const [left, top] = [u.valToPos(x, "x", true), u.valToPos(y, "y", true)];
      if (pen) u.ctx.lineTo(left, top);
      else u.ctx.moveTo(left, top);
      pen = true;
    }
    u.ctx.stroke();
  }

  beneath(u) {
    this.clipped(u, (ctx, box) => {
      ctx.fillStyle = this.group.colour("band");
      for (const [from, to] of this.group.bands()) {
        const left = u.valToPos(from, "x", true);
        ctx.fillRect(left, box.top, Math.max(1, u.valToPos(to, "x", true) - left), box.height);
      }
      ctx.strokeStyle = this.group.colour("lost");
      ctx.lineWidth = uPlot.pxRatio;
      for (const part of this.lost())
        this.line(
          u,
          part.x.map((x, i) => [x, this.unit(part.y[i])]),
        );
    });
  }

  above(u) {
    this.clipped(u, (ctx, box) => {
      ctx.lineWidth = 1.5 * uPlot.pxRatio;
      ctx.setLineDash([5 * uPlot.pxRatio, 4 * uPlot.pxRatio]);
      for (const { points, colour } of this.group.previewsOf(this.spec.hyperparameter)) {
        ctx.strokeStyle = this.group.colour(colour);
        this.line(
          u,
          points.map(([x, y]) => [x, this.unit(y)]),
        );
      }
      ctx.lineWidth = uPlot.pxRatio;
      ctx.setLineDash([2 * uPlot.pxRatio, 3 * uPlot.pxRatio]);
      for (const [x, colour] of this.group.lines()) {
        ctx.strokeStyle = this.group.colour(colour);
        const left = Math.round(u.valToPos(x, "x", true)) + 0.5;
        ctx.beginPath();
        ctx.moveTo(left, box.top);
        ctx.lineTo(left, box.top + box.height);
        ctx.stroke();
      }
    });
  }

  /** Show the values at `hover`, or (null) the newest ones in view. */
  read(hover) {
    const x = hover ?? this.group.range()[1];
    this.curves.forEach((curve, i) => {
      let at = curve.x.length - 1;
      while (at > 0 && curve.x[at] > x) at--;
      while (at > 0 && curve.y[at] === null) at--;
      const value = curve.soft?.[at] ?? null;
      const shown = value === null ? curve.y[at] : this.logarithmic ? 10 ** value : value;
      say(this.keys[i].value, at < 0 ? "–" : number(shown));
    });
    const words = this.curves.map((curve, i) => `${curve.label} ${this.keys[i].value.textContent}`);
    this.frame.setAttribute("aria-label", `${this.spec.title}: ${words.join(", ")}`);
  }

  close() {
    this.watch.disconnect();
    this.chart?.destroy();
  }
}

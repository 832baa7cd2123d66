// A small drawing of where a hyperparameter is going: steps to the right, its own scale upwards.

import { number, say, short, svg } from "./dom.js";
import { path, scaleOf } from "./numbers.js";

const [LEFT, RIGHT, TOP, BOTTOM] = [52, 14, 12, 26]; // margins in pixels; the numbers of the axes stand there
const ROOM = 10; // a log scale shows a factor of ten around what is drawn

/** Returns `element`, `over` for what stands upon it, `draw`, and the pixels of steps and values, both ways. */
export function curve(knob, height) {
  const grid = svg("g", { class: "grid" });
  const line = svg("path", { class: "way" });
  const over = svg("g", {}); // what an editor draws upon it
  const element = svg("svg", { class: "curve", height, role: "group" }, grid, line, over);
  let drawn = null;
  let range = null;
  let scale = scaleOf(knob);
  const view = {
    element,
    over,
    width: 0,
    toX: (step) => LEFT + ((step - drawn.from) / (drawn.to - drawn.from)) * (view.width - LEFT - RIGHT),
    toStep: (x) => drawn.from + ((x - LEFT) / (view.width - LEFT - RIGHT)) * (drawn.to - drawn.from),
    toY: (value) => height - BOTTOM - scale.part(value) * (height - BOTTOM - TOP),
    toValue: (y) => scale.value((height - BOTTOM - y) / (height - BOTTOM - TOP)),
    draw,
    after: () => {},
  };

  /** `{start: [step, value], points: [[step, value, shape]…], from, to, held}`; `held`: keep the range. */
  function draw(next) {
    drawn = next;
    if (!view.width) return;
    const values = [drawn.start[1], ...drawn.points.map(([, value]) => value)];
    if (!drawn.held || !range) range = window(knob, values);
    scale = scaleOf({ ...knob, ...range });
    const way = [...path(drawn.start, drawn.points)];
    way.push([drawn.to, way.at(-1)[1]]);
    const corners = way.map(([step, value]) => `${view.toX(step).toFixed(1)} ${view.toY(value).toFixed(1)}`);
    line.setAttribute("d", `M${corners.join("L")}`);
    axes();
    view.after();
  }

  function axes() {
    const lines = rows(scale).map((value) => [
      svg("line", { x1: LEFT, x2: view.width - RIGHT, y1: view.toY(value), y2: view.toY(value) }),
      label(number(value), { x: LEFT - 8, y: view.toY(value) + 4, "text-anchor": "end" }),
    ]);
    const few = view.width < 480 ? 2 : 4;
    const columns = Array.from(
      { length: few + 1 },
      (_, i) => drawn.from + ((drawn.to - drawn.from) * i) / few,
    );
    const words = columns.map((step, i) =>
      label(i === 0 ? "now" : short(Math.round(step)), {
        ...{ x: view.toX(step), y: height - 8 },
        "text-anchor": i === 0 ? "start" : i === few ? "end" : "middle",
      }),
    );
    grid.replaceChildren(...lines.flat(), ...words);
  }

  new ResizeObserver(([entry]) => {
    view.width = entry.contentRect.width;
    element.setAttribute("viewBox", `0 0 ${view.width} ${height}`);
    if (drawn) draw(drawn);
  }).observe(element);
  return view;
}

function label(text, attributes) {
  const element = svg("text", attributes);
  say(element, text);
  return element;
}

/** The part of a log scale around these values; of any other, all of it. */
function window(knob, values) {
  if (!scaleOf(knob).log) return { low: knob.low, high: knob.high };
  const low = Math.max(knob.low, Math.min(...values) / ROOM);
  return { low, high: Math.min(knob.high, Math.max(...values) * ROOM) };
}

/** Where the lines across go: at decades, or at round parts of the range. */
function rows({ log, low, high }) {
  if (log) {
    const [first, last] = [Math.ceil(Math.log10(low) - 1e-9), Math.floor(Math.log10(high) + 1e-9)];
    const every = Math.ceil((last - first + 1) / 6);
    const decades = [];
    for (let power = first; power <= last; power += every) decades.push(10 ** power);
    return decades.length > 1 ? decades : [low, high];
  }
  const raw = (high - low) / 4;
  const size = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((m) => m * size).find((m) => m >= raw);
  const marks = [];
  for (let i = Math.ceil(low / step); i * step <= high + step / 1e6; i++)
    marks.push(Number((i * step).toPrecision(6)));
  return marks;
}

// The numbers of a hyperparameter: how they are read, where they lie on its scale, how ramps move them.

import { count, number } from "./dom.js";

export const SHAPES = ["linear", "cosine", "exponential", "inverse_sqrt"];
export const SHAPE_NAMES = {
  linear: "linear",
  cosine: "cosine",
  exponential: "exponential",
  inverse_sqrt: "inverse root",
};

const NUMBER = /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i;
const SLIDER = 1000;
const SAMPLES = 32; // of a ramp, enough for a curve without corners at the width of a screen

/** A value as it is typed, in at most 4 significant digits: 0.0125, 2.5e-4, 1024. */
export function plain(value) {
  if (typeof value !== "number") return String(value ?? "");
  const size = Math.abs(value);
  if (Number.isInteger(value) && size < 1e6) return String(value);
  if (size >= 1e-3 && size < 1e6) return String(Number(value.toPrecision(4)));
  const [mantissa, exponent] = value.toExponential(3).split("e");
  return `${Number(mantissa)}e${Number(exponent)}`;
}

/** "1 step", "2 000 steps". */
export const steps = (amount) => `${count(amount)} ${Math.round(amount) === 1 ? "step" : "steps"}`;

/** 1.2 MB. */
export function bytes(amount) {
  const power = Math.min(4, Math.floor(Math.log10(Math.max(amount, 1)) / 3));
  return `${Number((amount / 1000 ** power).toPrecision(3))} ${["B", "kB", "MB", "GB", "TB"][power]}`;
}

/** What is typed for a hyperparameter: `{value}`, or `{error}` in words. */
export function readValue(text, { kind, low, high }) {
  const typed = text.trim().replace("−", "-");
  const value = Number(typed);
  const bounds = `between ${number(low)} and ${number(high)}`;
  if (!NUMBER.test(typed))
    return { error: `Give a number ${bounds}${kind === "log" ? ", such as 2.5e-4" : ""}.` };
  if (kind === "int" && !Number.isInteger(value)) return { error: `Give a whole number ${bounds}.` };
  if (value < low || value > high) return { error: `Give a value ${bounds}.` };
  return { value };
}

/** A number of steps, at least `least`; its thousands may be set apart. */
export function readSteps(text, least = 1) {
  const typed = text.replace(/[\s,_]/g, "");
  const value = /^\d+(e\d+)?$/i.test(typed) ? Number(typed) : NaN;
  if (!Number.isSafeInteger(value)) return { error: "Give a whole number of steps." };
  if (value < least) return { error: `Give at least ${count(least)}.` };
  return { value };
}

/** The scale of a number: `part` takes a value to [0, 1], `value` comes back, in round figures. */
export function scaleOf({ kind, low, high }) {
  const log = kind === "log" && low > 0;
  const [forth, back] = log ? [Math.log, Math.exp] : [(x) => x, (x) => x];
  const [first, span] = [forth(low), forth(high) - forth(low)];
  const decimals = Math.min(20, Math.max(0, Math.ceil(-Math.log10((high - low) / SLIDER))));
  const round = (value) => {
    if (kind === "int") return Math.round(value);
    return Number(log ? value.toPrecision(3) : value.toFixed(decimals));
  };
  return {
    log,
    low,
    high,
    ticks: kind === "int" && high - low <= SLIDER ? high - low : SLIDER,
    part: (value) => Math.min(1, Math.max(0, (forth(value) - first) / span)),
    value: (part) =>
      part <= 0 ? low : part >= 1 ? high : clamp(round(back(first + part * span)), low, high),
  };
}

export const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/** A ramp's value when `part` of it, in [0, 1], is over; as `autotune.records.between`. */
export function between(first, last, part, shape) {
  if (shape === "exponential") return Math.exp((1 - part) * Math.log(first) + part * Math.log(last));
  if (shape === "inverse_sqrt") return ((1 - part) * first ** -2 + part * last ** -2) ** -0.5;
  const eased = shape === "cosine" ? (1 - Math.cos(Math.PI * part)) / 2 : part;
  return first + eased * (last - first);
}

/** The way from [step, value] through [step, value, shape] points, as [step, value] pairs to draw. */
export function path(start, points) {
  const drawn = [start];
  let [step, value] = start;
  for (const [next, goal, shape] of points) {
    for (let i = 1; i < SAMPLES; i++) {
      drawn.push([step + ((next - step) * i) / SAMPLES, between(value, goal, i / SAMPLES, shape)]);
    }
    drawn.push([next, goal]);
    [step, value] = [next, goal];
  }
  return drawn;
}

/** Steps that are left of the run; null: nobody has said how many there are. */
export const left = (run) => (run.total_steps === null ? null : Math.max(0, run.total_steps - run.spent));

/** The shapes that a ramp between these values can have. */
export const shapesFor = (...values) => (values.every((v) => v > 0) ? SHAPES : SHAPES.slice(0, 2));

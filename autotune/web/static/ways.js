// Ways ahead for a hyperparameter: how far they reach, the one under way, and well-known ones.

import { count } from "./dom.js";
import { left, readSteps } from "./numbers.js";

/** The step at which the run ends, or a fair stretch ahead where nobody has said. */
export function horizonOf(run) {
  return run.step + Math.max(2, left(run) ?? Math.max(1000, run.step));
}

/** A step that is typed, after `step`. */
export function readAhead(text, step) {
  const result = readSteps(text, 0);
  return result.value <= step ? { error: `Give a step after ${count(step)}.` } : result;
}

/** The corners that are still ahead of a schedule or ramp under way. */
export const running = (run, { ramp }) => (ramp?.points ?? []).filter(([step]) => step > run.step);

/** Well-known ways from here to `end`: [label, points]. */
export function presets(run, { value, low }, end) {
  const part = (x) => Math.max(run.step + 1, Math.round(run.step + x * (end - run.step)));
  const floor = low === 0 ? "zero" : "low";
  const restart = part(1 / 3);
  return [
    [
      `Hold, then linear to ${floor}`,
      [
        [part(0.5), value, "linear"],
        [end, low, "linear"],
      ],
    ],
    [`Cosine to ${floor}`, [[end, low, "cosine"]]],
    [
      "Warm restart",
      [
        [restart, low, "cosine"],
        [restart + 1, value, "linear"],
        [end, low, "cosine"],
      ],
    ],
  ];
}

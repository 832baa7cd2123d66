// Fingers, wheel and keys on a chart: one finger pans, two zoom, a double tap shows everything.

const TAP = 300; // ms between the taps of a double tap
const STEP = 0.15; // of the range, for a key
const ZOOM = 1.25; // for a key

/**
 * Let a chart's plotting area move the shared range.
 *
 * @param {HTMLElement} over the plotting area
 * @param {HTMLElement} focus what takes the keys
 * @param {import("./chart.js").Charts} shared whose `range`, `zoom` and `reset` are used
 */
export function gestures(over, focus, shared) {
  const fingers = new Map(); // pointer → x as a part of the width
  let held = []; // the same when the gesture, or its number of fingers, began
  let start = [0, 1];
  let tapped = 0;

  const part = (event) => {
    const box = over.getBoundingClientRect();
    return (event.clientX - box.left) / box.width;
  };
  const about = (middle, factor) => {
    const [low, high] = shared.range();
    const at = low + middle * (high - low);
    shared.zoom(at + (low - at) * factor, at + (high - at) * factor);
  };
  const shift = (share) => {
    const [low, high] = shared.range();
    shared.zoom(low + share * (high - low), high + share * (high - low));
  };
  const begin = () => {
    start = shared.range();
    held = [...fingers.values()];
  };

  over.addEventListener("pointerdown", (event) => {
    if (event.pointerType === "mouse" && !(event.shiftKey && event.button === 0)) return;
    if (fingers.size === 2) return;
    over.setPointerCapture(event.pointerId);
    fingers.set(event.pointerId, part(event));
    begin();
  });
  over.addEventListener("pointermove", (event) => {
    if (!fingers.has(event.pointerId)) return;
    fingers.set(event.pointerId, part(event));
    const [low, high] = start;
    const now = [...fingers.values()];
    // The values under the fingers stay under them.
    const values = held.map((x) => low + x * (high - low));
    const apart = now.length === 2 ? now[1] - now[0] : 0;
    const span =
      now.length === 2
        ? Math.abs((values[1] - values[0]) / (Math.abs(apart) < 0.02 ? 0.02 : apart))
        : high - low;
    const left = values[0] - now[0] * span;
    if (Math.abs(now[0] - held[0]) + Math.abs((now[1] ?? 0) - (held[1] ?? 0)) > 0.01)
      shared.zoom(left, left + span);
  });
  const end = (event) => {
    if (!fingers.delete(event.pointerId)) return;
    const still = event.type === "pointerup" && held.length === 1 && Math.abs(part(event) - held[0]) < 0.02;
    if (fingers.size) begin();
    else if (still && event.timeStamp - tapped < TAP) shared.reset();
    tapped = still ? event.timeStamp : 0;
  };
  over.addEventListener("pointerup", end);
  over.addEventListener("pointercancel", end);

  over.addEventListener(
    "wheel",
    (event) => {
      const zooms = event.ctrlKey || event.metaKey || event.altKey; // a trackpad's pinch comes with ctrl
      const sideways = event.shiftKey ? event.deltaY || event.deltaX : event.deltaX;
      const upright = event.shiftKey ? 0 : event.deltaY;
      if (!zooms && Math.abs(sideways) <= Math.abs(upright)) return; // the page scrolls
      event.preventDefault();
      if (zooms) about(part(event), Math.exp(Math.max(-60, Math.min(60, event.deltaY)) / 150));
      else shift(sideways / over.clientWidth);
    },
    { passive: false },
  );

  const keys = {
    ArrowLeft: () => shift(-STEP),
    ArrowRight: () => shift(STEP),
    "+": () => about(0.5, 1 / ZOOM),
    "=": () => about(0.5, 1 / ZOOM),
    "-": () => about(0.5, ZOOM),
    0: () => shared.reset(),
    Escape: () => shared.reset(),
  };
  focus.addEventListener("keydown", (event) => {
    if (!(event.key in keys) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    keys[event.key]();
  });
}

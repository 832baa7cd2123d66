// The dial of one number: a slider on its scale, a field and quick factors, which always agree.

import { h, number as shown } from "./dom.js";
import { clamp, plain, readValue, scaleOf } from "./numbers.js";
import { button, field } from "./parts.js";

const FACTORS = [
  ["÷10", 1 / 10],
  ["÷3", 1 / 3],
  ["×3", 3],
  ["×10", 10],
];

/**
 * Args: the hyperparameter; `edited({value} | {error})` at each change by hand; names for tests.
 * Returns: `element`, `input`, and `show(value)`, which writes both parts without an edit.
 */
export function dial(knob, edited, { label, test, sliderTest }) {
  const scale = scaleOf(knob);
  let present = knob.value;
  const slider = h("input", {
    ...{ type: "range", min: 0, max: scale.ticks, step: 1, class: "slider", data: { test: sliderTest } },
    "aria-label": `${label}, slider`,
  });
  const number = field({
    ...{ label, hidden: true, data: { test }, enterkeyhint: "go", class: "number" },
    // The keys of phones for decimals lack the e and the minus.
    inputmode: knob.kind === "int" ? "numeric" : knob.kind === "float" && knob.low >= 0 ? "decimal" : "text",
    read: (text) => readValue(text, knob),
    onread(result) {
      if (!result.error) place((present = result.value));
      edited(result);
    },
  });
  const place = (value) => {
    const part = scale.part(value);
    slider.value = Math.round(part * scale.ticks);
    slider.style.setProperty("--part", part);
    slider.setAttribute("aria-valuetext", [shown(value), knob.unit].join(" ").trim());
  };
  const show = (value) => {
    present = value;
    place(value);
    number.show(plain(value));
  };
  const turn = (value) => {
    show(value);
    edited({ value });
  };
  slider.addEventListener("input", () => turn(scale.value(slider.value / scale.ticks)));
  slider.addEventListener("keydown", (event) => {
    const far = { PageUp: 0.1, PageDown: -0.1 }[event.key];
    if (!far) return;
    event.preventDefault();
    turn(scale.value(scale.part(present) + far));
  });
  const factors = FACTORS.map(([name, factor]) =>
    button(name, {
      class: "factor",
      "aria-label": `${label} ${name}`,
      onclick: () =>
        turn(clamp(factor < 1 ? present / Math.round(1 / factor) : present * factor, knob.low, knob.high)),
    }),
  );
  const row = scale.log ? [factors[0], factors[1], number.input, factors[2], factors[3]] : [number.input];
  const ends = [knob.low, knob.high].map((end) => h("span", {}, shown(end)));
  show(knob.value);
  return {
    element: h(
      "div",
      { class: scale.log ? "dial" : "dial level" },
      h("div", {}, slider, h("div", { class: "bounds", "aria-hidden": "true" }, ends)),
      number.label,
      h("div", { class: "dial-row" }, row),
      number.error,
    ),
    input: number.input,
    show,
  };
}

// The sheet that ramps a hyperparameter: to a value, over so many steps, along a shape.

import { curve } from "./curve.js";
import { dial } from "./dial.js";
import { count, h, number, say } from "./dom.js";
import { SHAPE_NAMES, SHAPES, left, path, plain, readSteps, shapesFor, steps } from "./numbers.js";
import { button, chips, choice, field, hindrance, sheet, statusLine, uid } from "./parts.js";

/** Open the sheet; `command` sends an action, `update(run, knob)` keeps the beginning where the run is. */
export function openRamp(context, run, knob, command, onclose) {
  let present = knob;
  let busy = false;
  const wish = { value: { value: knob.value }, steps: { value: likely(run) }, shape: "linear" };
  const status = statusLine();
  const sentence = h("p", { class: "sentence", id: uid() });
  const picture = curve(knob, 132);
  picture.element.setAttribute("aria-hidden", "true"); // the sentence says it

  const goal = dial(knob, (result) => change("value", result), {
    label: `${knob.name}, to`,
    test: `ramp-value-${knob.name}`,
    sliderTest: `ramp-slider-${knob.name}`,
  });
  const length = field({
    ...{ label: "Over steps", inputmode: "numeric", data: { test: `ramp-steps-${knob.name}` } },
    read: readSteps,
    onread: (result) => change("steps", result),
  });
  length.show(plain(wish.steps.value));
  const take = (amount) => {
    length.show(String(Math.max(1, Math.round(amount))));
    length.take();
  };
  const remaining = left(run);
  const quick = [
    ...[100, 1000, 10000].map((amount) => [count(amount), () => take(amount)]),
    ...(remaining > 3
      ? [
          [4, "¼ of the rest"],
          [2, "½ of the rest"],
          [1, "all the rest"],
        ].map(([part, label]) => [label, () => take(left(run) / part)])
      : []),
  ];
  const shape = choice(
    "shape",
    SHAPES.map((name) => [name, SHAPE_NAMES[name]]),
    wish.shape,
    (chosen) => change("shape", chosen),
    `ramp-shape-${knob.name}`,
  );
  const start = button("Start the ramp", {
    ...{ class: "primary", "aria-describedby": sentence.id, data: { test: `ramp-apply-${knob.name}` } },
    onclick: apply,
  });

  function change(part, result) {
    wish[part] = result;
    refresh();
  }

  function points() {
    if (wish.value.error || wish.steps.error) return null;
    return [[run.step + wish.steps.value, wish.value.value, wish.shape]];
  }

  function refresh() {
    const first = present.value;
    const possible = shapesFor(first, wish.value.value ?? 1);
    shape.allow(possible);
    if (!possible.includes(wish.shape)) shape.choose((wish.shape = "linear"));
    const way = points();
    const there = wish.value.value === first;
    start.disabled = way === null || there || hindrance(context, run) !== "" || busy;
    if (way === null) return say(sentence, "");
    const [[end, value]] = way;
    const told =
      `${knob.name} from ${number(first)} to ${number(value)} over the next ${steps(wish.steps.value)}, ` +
      `${SHAPE_NAMES[wish.shape]}; then it stays there, held by you.`;
    say(sentence, there ? `${knob.name} is at ${number(first)}: choose where it is to go.` : told);
    picture.draw({
      start: [run.step, first],
      points: way,
      from: run.step,
      to: run.step + 1.15 * (end - run.step),
    });
    context.chart.preview(knob.name, path([run.step, first], way));
  }

  async function apply() {
    const { value } = wish.value;
    const action = { kind: "ramp", value, steps: wish.steps.value, shape: wish.shape };
    busy = true;
    refresh();
    const ack = await command(action, `Ramp of ${knob.name} begun`, status.say);
    busy = false;
    if (ack) dialog.close();
    else refresh();
  }

  const dialog = sheet(
    `Ramp ${knob.name}`,
    {
      onclose() {
        context.chart.preview(knob.name, null);
        onclose();
      },
    },
    h("p", { class: "eyebrow" }, "To"),
    goal.element,
    length.element,
    chips("quick numbers of steps", quick),
    shape.element,
    picture.element,
    sentence,
    status.element,
    h("footer", {}, start),
  );
  refresh();
  return {
    update(next, fresh) {
      [run, present] = [next, fresh];
      refresh();
    },
  };
}

/** A tenth of what is left, in round figures. */
function likely(run) {
  const tenth = Math.max(10, (left(run) ?? 10000) / 10);
  return Number(tenth.toPrecision(1));
}

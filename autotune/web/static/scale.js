// Numbers behind the curves: ranges, ticks, smoothing, joining of stretches.

const WIDE = 10; // from this ratio of highest to lowest on, positive values are shown on a log scale
const TRIM = 0.004; // share of values at each end that may run off the scale, where a smoothed curve is shown

/** Steps of 1, 2 or 5 times a power of ten, at most `most` of them within [low, high]. */
function steps(low, high, most) {
  const rough = (high - low) / Math.max(1, most);
  const power = 10 ** Math.floor(Math.log10(rough));
  const size = [1, 2, 5, 10].map((factor) => factor * power).find((step) => step >= rough * 0.999);
  const out = [];
  for (let i = Math.ceil(low / size); i * size <= high; i++) out.push(Number((i * size).toPrecision(12)));
  return out;
}

/**
 * Where an axis has its ticks.
 *
 * @param {number} low in the axis's own units: the power of ten where `log`
 * @param {number} high
 * @param {number} most about how many fit
 * @param {boolean} log
 */
export function ticks(low, high, most, log) {
  if (!(high > low)) return [low];
  if (!log) return steps(low, high, most);
  const decades = high - low;
  if (decades < 0.9)
    return steps(10 ** low, 10 ** high, most)
      .filter((v) => v > 0)
      .map(Math.log10);
  const each = Math.max(1, Math.ceil(decades / most));
  const digits = decades * 3 <= most + 1 ? [1, 2, 5] : [1];
  const out = [];
  for (let power = Math.floor(low); power <= high; power++) {
    if (power % each) continue;
    for (const digit of digits) out.push(power + Math.log10(digit));
  }
  const within = out.filter((value) => value >= low && value <= high);
  return within.length > 1
    ? within
    : steps(10 ** low, 10 ** high, most)
        .filter((v) => v > 0)
        .map(Math.log10);
}

/** A tick's label. */
export function label(value) {
  const size = Math.abs(value);
  if (size !== 0 && (size < 0.001 || size >= 1e5))
    return Number(value.toPrecision(3)).toExponential().replace("e+", "e");
  return String(Number(value.toPrecision(5)));
}

/** Whether positive values are spread so widely that a log scale shows more. */
export function spread(values) {
  const known = sorted(values);
  if (known.length < 2 || known[0] <= 0) return false;
  return quantile(known, 0.99) / quantile(known, 0.01) > WIDE;
}

/** The range of these values, without the few that stick out where `trim`; null where there are none. */
export function extent(values, trim) {
  const known = sorted(values);
  if (!known.length) return null;
  return trim ? [quantile(known, TRIM), quantile(known, 1 - TRIM)] : [known[0], known[known.length - 1]];
}

function sorted(values) {
  return Float64Array.from(values.filter((value) => value !== null && value !== undefined)).sort();
}

const quantile = (known, part) => known[Math.round(part * (known.length - 1))];

/**
 * The average of a curve about each of its points, which need not be evenly apart: weights fall exponentially
 * to both sides, so that the average does not lag behind.
 *
 * @param {number[]} x
 * @param {(number | null)[]} y
 * @param {number} width the distance over which a weight falls to 1/e
 */
export function smooth(x, y, width) {
  const sums = new Float64Array(y.length);
  const weights = new Float64Array(y.length);
  const sweep = (from, to, by) => {
    let [sum, weight, before] = [0, 0, x[from]];
    for (let i = from; i !== to; i += by) {
      const keep = Math.exp(-Math.abs(x[i] - before) / width);
      before = x[i];
      sum *= keep;
      weight *= keep;
      sums[i] += sum;
      weights[i] += weight;
      if (y[i] === null) continue;
      sum += y[i];
      weight += 1;
    }
  };
  sweep(0, y.length, 1);
  sweep(y.length - 1, -1, -1);
  return y.map((value, i) => (value === null ? null : (sums[i] + value) / (weights[i] + 1)));
}

/**
 * The live stretches of a signal as one curve.
 *
 * @param {{live: boolean, x: number[], y: (number | null)[]}[]} parts
 * @param {boolean} broken whether the curve is interrupted between them, as over the steps spent
 * @returns {{x: number[], y: (number | null)[]}}
 */
export function joined(parts, broken) {
  const x = [];
  const y = [];
  for (const part of parts) {
    if (!part.live) continue;
    if (broken && x.length && part.x.length) {
      x.push((x[x.length - 1] + part.x[0]) / 2);
      y.push(null);
    }
    for (let i = 0; i < part.x.length; i++) {
      if (x.length && part.x[i] <= x[x.length - 1]) continue; // a step measured again at the seam
      x.push(part.x[i]);
      y.push(part.y[i]);
    }
  }
  return { x, y };
}

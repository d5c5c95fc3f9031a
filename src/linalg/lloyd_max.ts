/**
 * The levels of a scalar quantizer that lose least (Lloyd, "Least Squares Quantization in PCM",
 * 1957; Max, 1960), which is k-means in one dimension; where values have weights, weighted k-means
 * (SqueezeLLM, arXiv 2306.07629). In one dimension no iteration is needed that may end at a level
 * that is only better than its neighbours: from quantiles, Lloyd's loses half a decibel on the rows
 * of a weight. Values are counted in bins first, so that large weights take little memory.
 */

/** The most bins; a bin is then as wide as 1/65536 of the range of all values. */
const MOST_BINS = 2 ** 16;

/** What to find. */
export interface LevelsWanted {
  /** How many. */
  readonly count: number;
  /** Weights of the columns of which the values are rows, not below 0; absent: all alike. */
  readonly weights?: Float32Array;
}

/**
 * `count` ascending levels of least squared error: the means of cells that are the best of all ways
 * to cut the values (by a dynamic program; Wu, "Optimal quantization by matrix searching", 1991).
 *
 * Values are counted in equal bins over their range (16 for each value, from 4096 to 65536), and
 * what is in one bin stays together. Of ways that are equally good the one is taken whose last cell
 * is largest. Where there are fewer bins with a value than levels, the last levels are equal. If
 * all weights are 0 the values count alike. NaN or an infinity among the values: all levels are
 * NaN.
 */
export function lloydMax(
  values: Float32Array,
  { count, weights }: LevelsWanted,
): Float64Array<ArrayBuffer> {
  const bins = countBins(values, weights) ?? countBins(values, undefined);
  if (!bins) return new Float64Array(count).fill(NaN);
  const { mass, moment, middle } = bins;
  const ends = bestEnds(bins, Math.min(count, mass.length - 1));
  return Float64Array.from({ length: count }, (_, j) => {
    const cell = Math.min(j, ends.length - 1);
    const [from, to] = [ends[cell - 1] ?? 0, ends[cell]!];
    return middle + (moment[to]! - moment[from]!) / (mass[to]! - mass[from]!);
  });
}

/** Bins that hold something, ascending. */
interface Bins {
  /** The weight of all bins before each; one more than there are bins. */
  readonly mass: Float64Array<ArrayBuffer>;
  /** Their weighted values less `middle`, added up. */
  readonly moment: Float64Array<ArrayBuffer>;
  /** Near which the values lie: squares would lose what matters where that is far from 0. */
  readonly middle: number;
}

/** Undefined where nothing has a weight, or a value is not finite. */
function countBins(values: Float32Array, weights: Float32Array | undefined): Bins | undefined {
  let low = Infinity;
  let high = -Infinity;
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  if (!Number.isFinite(low) || !Number.isFinite(high)) return undefined;
  const number = Math.min(MOST_BINS, Math.max(4096, 2 ** Math.ceil(Math.log2(16 * values.length))));
  const masses = new Float64Array(number);
  const moments = new Float64Array(number);
  const perUnit = high > low ? number / (high - low) : 0;
  const middle = (low + high) / 2;
  const columns = weights?.length ?? 1;
  let column = 0;
  for (const value of values) {
    const weight = weights ? weights[column]! : 1;
    if (++column === columns) column = 0;
    const bin = Math.min(number - 1, Math.floor((value - low) * perUnit));
    masses[bin]! += weight;
    moments[bin]! += weight * (value - middle);
  }
  let used = 0;
  const mass = new Float64Array(number + 1);
  const moment = new Float64Array(number + 1);
  for (let bin = 0; bin < number; bin++) {
    if (!(masses[bin]! > 0)) continue;
    mass[used + 1] = mass[used]! + masses[bin]!;
    moment[used + 1] = moment[used]! + moments[bin]!;
    used++;
  }
  if (used === 0) return undefined;
  return { mass: mass.slice(0, used + 1), moment: moment.slice(0, used + 1), middle };
}

/**
 * Where cells end so that Σ (Σ m·x)² / Σ m over them is greatest, which is where squared errors are
 * least: the best way to cut the first bins into one cell, two, three … Where a cell of the best
 * way begins does not go back as bins are added, so that halves can be told apart.
 */
function bestEnds({ mass, moment }: Bins, count: number): number[] {
  const bins = mass.length - 1;
  const worth = (from: number, to: number) =>
    (moment[to]! - moment[from]!) ** 2 / (mass[to]! - mass[from]!);
  let best = Float64Array.from({ length: bins + 1 }, (_, to) => to === 0 ? 0 : worth(0, to));
  const begins: Int32Array[] = [];
  for (let cells = 2; cells <= count; cells++) {
    const before = best;
    const begin = new Int32Array(bins + 1);
    best = new Float64Array(bins + 1);
    const search = (low: number, high: number, least: number, most: number): void => {
      if (low > high) return;
      const to = (low + high) >> 1;
      let found = -Infinity;
      for (let from = least; from <= Math.min(most, to - 1); from++) {
        const value = before[from]! + worth(from, to);
        if (value > found) [found, begin[to]] = [value, from];
      }
      best[to] = found;
      search(low, to - 1, least, begin[to]!);
      search(to + 1, high, begin[to]!, most);
    };
    search(cells, bins, cells - 1, bins - 1);
    begins.push(begin);
  }
  const ends = [bins];
  for (const begin of begins.toReversed()) ends.unshift(begin[ends[0]!]!);
  return ends;
}

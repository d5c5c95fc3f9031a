/**
 * Cases by chance: sizes, dtypes, scalars and contents of an op's arguments, drawn by fast-check,
 * which also looks for the smallest case that fails. What each op allows is in draws.ts.
 * `SLUICE_TEST_SEED` draws other cases, `SLUICE_TEST_RUNS` another number of them.
 */
import fc from "fast-check";
import {
  type DeviceDType,
  type Dims,
  type Op,
  parseSignature,
  type Scalars,
} from "../../src/op.ts";
import { argumentsOf } from "../../src/op.ts";
import type { Shape } from "../../src/tensor.ts";
import { type Given, normal, whole } from "./given.ts";
import type { Case } from "./judge.ts";

/** A whole number of at least `min` in the environment. */
function setting(name: string, { min, otherwise }: { min: number; otherwise: number }): number {
  const text = Deno.env.get(name) ?? String(otherwise);
  const value = Number(text);
  if (Number.isInteger(value) && value >= min) return value;
  throw new RangeError(`${name} must be a whole number of at least ${min}, got "${text}"`);
}

/**
 * What the cases of a test run are drawn from: always the same, unless the environment says
 * otherwise.
 */
export const DRAWING = {
  seed: setting("SLUICE_TEST_SEED", { min: 0, otherwise: 10 }),
  numRuns: setting("SLUICE_TEST_RUNS", { min: 1, otherwise: 30 }),
} as const;

/** Sizes around which kernels change their ways: vectors, workgroups, tiles and panels. */
const EDGES = [0, 1, 4, 8, 16, 32, 64, 96, 128, 192, 256].flatMap((n) => [n - 1, n, n + 1]);

function sizeBetween(min: number, max: number): fc.Arbitrary<number> {
  return fc.oneof(
    { weight: 5, arbitrary: fc.integer({ min, max }) },
    { weight: 4, arbitrary: fc.constantFrom(min, ...EDGES.filter((n) => n > min && n <= max)) },
    { weight: 1, arbitrary: fc.constant(min) },
  );
}

/** Draws one case. */
export class Draw {
  readonly #next: fc.GeneratorValue;

  constructor(next: fc.GeneratorValue) {
    this.#next = next;
  }

  /** A whole number, ends included. */
  whole(min: number, max: number): number {
    return this.#next(fc.integer, { min, max });
  }

  /** One of some values. */
  pick<T>(...values: readonly T[]): T {
    return values[this.whole(0, values.length - 1)]!;
  }

  /** A size, more often one at the edge of a tile than chance would have it. */
  size(max: number, min = 0): number {
    return this.#next(sizeBetween, min, Math.max(min, max));
  }

  /** Sizes whose product stays below about `limit`, because a definition takes its time. */
  sizes(count: number, limit: number, { min = 0, max = 300 } = {}): number[] {
    const sizes: number[] = [];
    let rest = limit;
    for (let i = 0; i < count; i++) {
      const size = this.size(Math.min(max, Math.floor(rest)), min);
      rest /= Math.max(1, size);
      sizes.push(size);
    }
    // Any of them may be the large one.
    const turn = this.whole(0, count - 1);
    return [...sizes.slice(turn), ...sizes.slice(0, turn)];
  }

  /** A seed for contents. */
  seed(): number {
    return this.whole(0, 2 ** 31 - 1);
  }
}

/** What was drawn of a case. */
export interface Drawn {
  readonly dims: Dims;
  readonly scalars?: Scalars;
  /** Contents that are not just any numbers, by argument. */
  readonly given?: Readonly<Record<string, (shape: Shape, dtype: DeviceDType) => Given>>;
}

/** The range that whole numbers are drawn from. */
const RANGES: Partial<Record<DeviceDType, readonly [low: number, high: number]>> = {
  i8: [-128, 127],
  u8: [0, 255],
  i32: [-(2 ** 27), 2 ** 27],
  u32: [0, 2 ** 32 - 1],
};

/** A call of `op` with these sizes and scalars; what was not given holds any numbers. */
export function caseOf(op: Op, draw: Draw, { dims, scalars, given = {} }: Drawn): Case {
  const scale = draw.pick(1, 0.02, 30);
  const tensors = Object.fromEntries(
    argumentsOf(op).map(([name, signature]) => {
      const { dtypes, dims: letters } = parseSignature(signature);
      const dtype = draw.pick(...dtypes);
      const shape = letters.map((letter) => dims[letter]!);
      return [name, given[name]?.(shape, dtype) ?? anyTensor(dtype, shape, { draw, scale })];
    }),
  );
  return { op, tensors, ...(scalars ? { scalars } : {}) };
}

function anyTensor(
  dtype: DeviceDType,
  shape: Shape,
  { draw, scale }: { readonly draw: Draw; readonly scale: number },
): Given {
  const seed = draw.seed();
  switch (dtype) {
    case "f32":
    case "bf16":
    case "f16":
    case "f8_e4m3":
      return normal(dtype, shape, { seed, scale });
    default: {
      const [low, high] = RANGES[dtype]!;
      return whole(dtype, shape, { low, high, seed });
    }
  }
}

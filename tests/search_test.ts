/**
 * Scales by least squares against brute force: every scale that can be stored, either sign, every
 * zero point, the nearest codes.
 */
import assert from "node:assert/strict";
import { roundTo } from "../src/number.ts";
import { uniform } from "../src/corpora/random.ts";
import { type IntScheme, scaleShape, tileOf } from "../src/scheme.ts";
import { schemeKind } from "../src/schemes/mod.ts";
import { gaussian } from "./conformance/given.ts";
import { onEveryBackend } from "./present.ts";

/**
 * A search, the power of errors that it is about, and by how much a weight and a tile may miss the
 * least.
 */
interface Promised {
  readonly search: "frobenius" | "mse";
  readonly power: number;
  readonly weight: number;
  readonly tile: number;
}

const SEARCHES: readonly Promised[] = [
  { search: "frobenius", power: 2, weight: 1.005, tile: 1.02 },
  { search: "mse", power: 2.4, weight: 1.02, tile: 1.15 },
];

const SHAPE = [6, 64] as const;

const STRATEGIES: readonly IntScheme["strategy"][] = [
  { kind: "group", size: 16 },
  { kind: "group", size: 64 },
  { kind: "channel" },
  { kind: "tensor" },
  { kind: "block", rows: 4, columns: 24 },
];

const DISTRIBUTIONS: Readonly<Record<string, (seed: number) => Float32Array<ArrayBuffer>>> = {
  normal: (seed) => gaussian(SHAPE[0] * SHAPE[1], seed, 0.02),
  Laplace(seed) {
    const next = uniform(seed);
    return new Float32Array(SHAPE[0] * SHAPE[1]).map(() => {
      const x = next() - 0.5;
      return -0.02 * Math.sign(x) * Math.log(1 - 2 * Math.abs(x));
    });
  },
  "outlier-heavy": (seed) =>
    gaussian(SHAPE[0] * SHAPE[1], seed, 0.02).map((w, i) => i % 29 === 3 ? 10 * w : w),
  "one-sided": (seed) => gaussian(SHAPE[0] * SHAPE[1], seed, 0.02).map((w) => w * w * 50 - 0.004),
};

/** One weight to search, and how much its columns count. */
interface Given {
  readonly name: string;
  readonly scheme: IntScheme;
  readonly signed: boolean;
  readonly w: Float32Array<ArrayBuffer>;
  readonly importance: Float32Array<ArrayBuffer> | undefined;
}

const BITS = [2, 3, 4, 5, 6, 7, 8] as const;
const GRIDS = ["full", "restricted", "affine"] as const;
const DTYPES = ["bf16", "f16", "f32"] as const;

/** Every number of bits, grid, sign and dtype of scales, with the rest in turn. */
const GIVEN: readonly Given[] = BITS.flatMap((bits) =>
  GRIDS.flatMap((grid) =>
    DTYPES.flatMap((scaleDType, d) =>
      (grid === "full" ? [true, false] : [false]).flatMap((signed) =>
        Object.entries(DISTRIBUTIONS).map(([name, draw], i): Given => {
          const turn = bits + 3 * d + i;
          const strategy = STRATEGIES[turn % STRATEGIES.length]!;
          return {
            name: `${name}, int${bits} ${grid}${signed ? " signed" : ""}, ` +
              `${strategy.kind}, ${scaleDType}`,
            scheme: { kind: "int", bits, grid, strategy, scaleDType, activations: "none" },
            signed,
            w: draw(100 + turn),
            importance: turn % 2 === 0
              ? undefined
              : gaussian(SHAPE[1], turn).map((x) => Math.exp(1.5 * x)),
          };
        })
      )
    )
  )
);

/** Elements of each tile: their values, and what their errors count. */
function tilesOf({ scheme, w, importance }: Given): { w: number; by: number }[][] {
  const [a, b] = scaleShape(scheme.strategy, SHAPE);
  const [rows, columns] = tileOf(scheme.strategy, SHAPE);
  const tiles = Array.from({ length: a * b }, (): { w: number; by: number }[] => []);
  w.forEach((value, i) => {
    const [r, c] = [Math.floor(i / SHAPE[1]), i % SHAPE[1]];
    tiles[Math.floor(r / rows) * b + Math.floor(c / columns)]!.push({
      w: value,
      by: importance?.[c] ?? 1,
    });
  });
  return tiles;
}

/** Σ by·|w − ŵ|^power with the nearest of the levels from `bottom` to `top`, times a scale. */
function errorOf(
  tile: readonly { w: number; by: number }[],
  { scale, bottom, top, power }: { scale: number; bottom: number; top: number; power: number },
): number {
  let sum = 0;
  for (const { w, by } of tile) {
    const error = w - scale * Math.min(top, Math.max(bottom, Math.round(w / scale)));
    sum += by * (power === 2 ? error * error : Math.abs(error) ** power);
  }
  return sum;
}

/**
 * The least error of a tile over scales as they are stored, f32 ones 2048 an octave, and zero
 * points.
 */
function leastError(
  tile: readonly { w: number; by: number }[],
  given: Given,
  power: number,
): number {
  const { scheme: { bits, grid, scaleDType }, signed } = given;
  const low = Math.min(0, ...tile.map(({ w }) => w));
  const high = Math.max(0, ...tile.map(({ w }) => w));
  const span = 2 ** bits - 1;
  const reach = grid === "affine" ? high - low : Math.max(-low, high);
  const most = grid === "affine" ? 2 ** bits : 2 ** (bits - 1);
  const [perOctave, octaves] = [scaleDType === "f32" ? 2048 : 1024, bits < 5 ? 4 : 1.6];
  let least = Infinity;
  let before = 0;
  for (let i = 0; i < perOctave * octaves; i++) {
    const scale = roundTo(scaleDType, 2.2 * reach / most / 2 ** (i / perOctave));
    if (scale === before) continue;
    before = scale;
    const windows = grid === "affine"
      // Further down or up, one end is clipped while the other has room.
      ? range(Math.floor(low / scale) - 1, Math.ceil(high / scale) - span + 1, span)
        .map((bottom) => ({ bottom, top: bottom + span }))
      : grid === "restricted"
      ? [{ bottom: 1 - most, top: most - 1 }]
      : [{ bottom: -most, top: most - 1 }, ...signed ? [{ bottom: 1 - most, top: most }] : []];
    for (const window of windows) {
      least = Math.min(least, errorOf(tile, { scale, power, ...window }));
    }
  }
  return least;
}

/** Whole numbers between two in either order, of which levels that include 0 may start. */
function range(a: number, b: number, span: number): number[] {
  const [from, to] = [Math.max(-span, Math.min(a, b)), Math.min(0, Math.max(a, b))];
  return Array.from({ length: Math.max(0, to - from + 1) }, (_, i) => from + i);
}

/** Every given weight by least squares, and every fifth by the other search. */
const WANTED = SEARCHES.map((promised) => ({
  ...promised,
  cases: GIVEN.filter((_, i) => promised.power === 2 || i % 5 === 0).map((given) => ({
    given,
    least: tilesOf(given).map((tile) => leastError(tile, given, promised.power)),
  })),
}));

for (const { search, power, cases, ...promise } of WANTED) {
  const percent = ((promise.weight - 1) * 100).toFixed(1);
  onEveryBackend(
    `scales by ${search} are within ${percent} % of every scale and zero point that can be stored`,
    async (backend) => {
      for (const { given, least } of cases) {
        const { name, scheme, signed, w, importance } = given;
        const kind = schemeKind(scheme);
        using scope = backend.scope();
        const weight = scope.alloc("f32", SHAPE);
        backend.write(weight, new Uint8Array(w.buffer));
        const counts = importance && scope.alloc("f32", [1, SHAPE[1]]);
        if (counts) backend.write(counts, new Uint8Array(importance.buffer));
        const quantized = await kind.quantize(scheme, weight, {
          scope,
          search,
          signed,
          ...(counts ? { importance: counts } : {}),
        });
        const [values, scales] = (await backend.read(
          kind.dequantize(quantized, scope),
          quantized.tensors.scale!,
        )).map(({ buffer }) => new Float32Array(buffer));
        for (const scale of scales!) {
          assert.equal(scale, roundTo(scheme.scaleDType, scale), `${name}: ${scale} is not stored`);
          assert.ok(signed || scale > 0, `${name}: scale ${scale}`);
        }
        const before = tilesOf(given);
        const errors = tilesOf({ ...given, w: values! }).map((tile, t) =>
          tile.reduce(
            (sum, { w, by }, e) => sum + by * Math.abs(before[t]![e]!.w - w) ** power,
            0,
          )
        );
        const sum = (parts: readonly number[]) => parts.reduce((a, b) => a + b, 0);
        const ratio = sum(errors) / sum(least);
        assert.ok(ratio <= promise.weight, `${name}: ${ratio} times the least error`);
        errors.forEach((error, t) => {
          const ratio = error / least[t]!;
          assert.ok(ratio <= promise.tile, `${name}, tile ${t}: ${ratio} times the least error`);
        });
      }
    },
  );
}

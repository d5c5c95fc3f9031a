/** The multiple-choice knapsack against trying everything, and what it takes for many items. */
import assert from "node:assert/strict";
import { type Choice, leastBytes, solveKnapsack } from "../src/bits/knapsack.ts";
import { randoms } from "./tiny.ts";

/** The least loss of all choices that fit, by trying them all; undefined where none fits. */
function tried(items: readonly (readonly Choice[])[], budget: number): number | undefined {
  let best: number | undefined;
  const go = (item: number, bytes: number, loss: number): void => {
    if (bytes > budget) return;
    if (item === items.length) {
      if (best === undefined || loss < best) best = loss;
      return;
    }
    for (const option of items[item]!) go(item + 1, bytes + option.bytes, loss + option.loss);
  };
  go(0, 0, 0);
  return best;
}

/** Items of options drawn by chance: of any losses, falling ones, few different ones, zeros. */
function drawn(seed: number): { items: Choice[][]; budget: number } {
  const next = randoms(seed);
  const whole = (most: number) => Math.floor((next() + 1) / 2 * most);
  const kind = seed % 4;
  const items = Array.from(
    { length: 1 + whole(7) },
    () =>
      Array.from({ length: 1 + whole(5) }, (): Choice => {
        const bytes = whole(kind === 2 ? 5 : 1000);
        const noise = (next() + 1) / 2;
        const loss = kind === 0
          ? noise
          : kind === 1
          ? (1 + noise) / (1 + bytes) ** 2
          : whole(kind === 2 ? 4 : 2) * 3;
        return { bytes, loss };
      }),
  );
  const most = items.reduce((all, one) => all + Math.max(...one.map(({ bytes }) => bytes)), 0);
  return { items, budget: Math.round(most * (next() + 1) / 2) };
}

Deno.test("solveKnapsack() finds what trying everything finds, on 3,000 small cases", () => {
  let impossible = 0;
  for (let seed = 1; seed <= 3000; seed++) {
    const { items, budget } = drawn(seed);
    const expected = tried(items, budget);
    const found = solveKnapsack(items, budget);
    if (expected === undefined) {
      impossible++;
      assert.equal(found, undefined, `seed ${seed}`);
      continue;
    }
    assert.ok(found, `seed ${seed}`);
    assert.ok(Math.abs(found.loss - expected) <= 1e-12 * (1 + expected), `seed ${seed}`);
    const own = found.chosen.map((option, i) => items[i]![option]!);
    assert.equal(own.reduce((all, { bytes }) => all + bytes, 0), found.bytes);
    assert.ok(Math.abs(own.reduce((all, { loss }) => all + loss, 0) - found.loss) < 1e-9);
    assert.ok(found.bytes <= budget);
  }
  assert.ok(impossible > 100, `${impossible} cases that nothing fits`);
});

Deno.test("going down the hulls alone is not always best, and solveKnapsack() knows it", () => {
  // The first step saves the most per byte, and leaves no room for the second, which saves more.
  const items = [
    [{ bytes: 0, loss: 10 }, { bytes: 1, loss: 8 }],
    [{ bytes: 0, loss: 10 }, { bytes: 10, loss: 0 }],
  ];
  assert.deepEqual(solveKnapsack(items, 10)?.chosen, [0, 1]);
  assert.equal(solveKnapsack(items, 10)?.loss, 10);
});

Deno.test("2,000 items of 6 options take few states, whatever the losses and the bytes are like", () => {
  const shapes = [147456, 110592, 884736, 884736, 1769472];
  const bits = [2, 3, 4, 6, 8, 16];
  for (const kind of ["weights of a model", "anything"] as const) {
    const next = randoms(7);
    const items = Array.from({ length: 2000 }, (_, i) => {
      const size = shapes[i % shapes.length]!;
      const slope = Math.exp(3 * next());
      return bits.map((width): Choice =>
        kind === "anything" ? { bytes: Math.floor((next() + 1) * 1e6), loss: (next() + 1) / 2 } : {
          bytes: size * width / 8 + (width < 16 ? size / 64 : 0),
          loss: width === 16 ? 0 : slope * 4 ** -width * Math.exp(0.3 * next()),
        }
      );
    });
    const all = items.reduce((sum, one) => sum + Math.max(...one.map(({ bytes }) => bytes)), 0);
    const least = leastBytes(items);
    for (const share of [0.05, 0.2, 0.5]) {
      const budget = Math.floor(least + share * (all - least));
      const found = solveKnapsack(items, budget);
      assert.ok(found && found.bytes <= budget);
      // Without bounds there are about as many states as bytes: hundreds of millions.
      assert.ok(found.states < 200_000, `${kind}, ${share}: ${found.states} states`);
    }
  }
});

Deno.test("what does not fit has no solution, and what fits as a whole is taken whole", () => {
  const items = [[{ bytes: 4, loss: 2 }, { bytes: 9, loss: 0 }], [{ bytes: 3, loss: 0 }]];
  assert.equal(leastBytes(items), 7);
  assert.equal(solveKnapsack(items, 6), undefined);
  assert.deepEqual(solveKnapsack(items, 7)?.chosen, [0, 0]);
  assert.deepEqual(solveKnapsack(items, 12)?.chosen, [1, 0]);
  assert.deepEqual(solveKnapsack([], 0)?.chosen, []);
});

Deno.test("options that cannot be are refused", () => {
  for (
    const option of [{ bytes: Infinity, loss: 0 }, { bytes: -1, loss: 0 }, { bytes: 1, loss: NaN }]
  ) {
    assert.throws(() => solveKnapsack([[option]], 10), RangeError);
  }
  assert.throws(() => solveKnapsack([[]], 10), /no options/);
});

/**
 * The factor that GPTQ solves with: against its definition, in panels, damped, and where it cannot
 * be had.
 */
import assert from "node:assert/strict";
import type { Backend } from "../src/backend.ts";
import { importanceOf, isSound, makeFactor, soundFactor } from "../src/linalg/factor.ts";
import { gram } from "../src/observers/gram.ts";
import type { Panels } from "../src/linalg/panels.ts";
import { gaussian } from "./conformance/given.ts";
import { counted } from "./counted.ts";
import { onEveryBackend } from "./present.ts";
import { withOwn } from "./run_given.ts";

async function readAll(
  { size, panels }: Panels,
  backend: Backend,
): Promise<Float32Array<ArrayBuffer>> {
  const all = new Float32Array(size * size);
  const parts = await backend.read(...panels.map(({ tensor }) => tensor));
  parts.forEach((bytes, i) => all.set(new Float32Array(bytes.buffer), panels[i]!.first * size));
  return all;
}

/** Σ x·xᵀ in float64. */
function gramOf(windows: readonly Float32Array[], size: number): Float64Array {
  const h = new Float64Array(size * size);
  for (const x of windows) {
    for (let t = 0; t < x.length / size; t++) {
      for (let i = 0; i < size; i++) {
        for (let j = 0; j < size; j++) h[i * size + j]! += x[t * size + i]! * x[t * size + j]!;
      }
    }
  }
  return h;
}

for (
  const { size, panel, width = 64 } of [
    { size: 1, panel: Infinity },
    { size: 70, panel: Infinity },
    { size: 150, panel: 64 },
    { size: 300, panel: 128 },
    { size: 300, panel: Infinity, width: 128 },
    { size: 333, panel: 192, width: 128 },
  ]
) {
  onEveryBackend(
    `the gram observer and the factor of ${size} channels in panels of ${panel} rows and blocks of ${width} equal their definitions`,
    async (device) => {
      const backend = panel === Infinity
        ? device
        : withOwn(device, { maxTensorBytes: size * 4 * panel });
      const windows = [1, 2, 3].map((seed) => gaussian(37 * size, seed));
      using scope = backend.scope();
      const observation = gram.open({ channels: size, tokens: 3 * 37, scope });
      for (const values of windows) {
        using scratch = backend.scope();
        const x = scratch.alloc("f32", [37, size]);
        backend.write(x, new Uint8Array(values.buffer));
        await observation.add(x);
      }
      const sums = await observation.finish();
      assert.equal(sums.panels.length, Math.ceil(size / Math.min(size, panel)));
      const h = gramOf(windows, size);
      const found = await readAll(sums, backend);
      const diagonal = Array.from({ length: size }, (_, i) => h[i * size + i]!);
      found.forEach((value, i) => {
        const most = Math.sqrt(diagonal[Math.floor(i / size)]! * diagonal[i % size]!);
        assert.ok(Math.abs(value - h[i]!) <= 114 * 2 ** -24 * most, `h[${i}] is ${value}`);
      });
      assert.deepEqual(
        [...sums.diagonal],
        Array.from({ length: size }, (_, i) => found[i * size + i]),
      );

      // U of H' = H + λI in an order, of which U·H'·Uᵀ = I.
      const order = Uint32Array.from({ length: size }, (_, i) => (i * 7 + 3) % size);
      const unique = new Set(order).size === size ? order : order.map((_, i) => size - 1 - i);
      const damping = 0.05 * diagonal.reduce((a, b) => a + b, 0) / size;
      const made = await makeFactor(sums, { scope, order: unique, damping, width });
      assert.equal(await isSound(made, backend), true);
      const v = await readAll(made.v, backend);
      const damped = new Float64Array(size * size);
      for (let i = 0; i < size; i++) {
        for (let j = 0; j < size; j++) {
          const [r, c] = [unique[i]!, unique[j]!];
          damped[i * size + j] = h[r * size + c]! + (i === j ? damping : 0);
        }
      }
      // (Vᵀ·H'·V)[i, j], a column of V at a time.
      for (let j = 0; j < size; j += Math.max(1, size >> 4)) {
        const product = new Float64Array(size);
        for (let r = 0; r < size; r++) {
          for (let c = j; c < size; c++) product[r]! += damped[r * size + c]! * v[c * size + j]!;
        }
        for (let i = 0; i < size; i++) {
          let sum = 0;
          for (let r = i; r < size; r++) sum += v[r * size + i]! * product[r]!;
          // Of condition (trace + λ)/λ the error is some times u; what is found is below 1e-5.
          assert.ok(Math.abs(sum - (i === j ? 1 : 0)) < 2e-4, `(U·H·Uᵀ)[${i}, ${j}] is ${sum}`);
          if (i < j) assert.equal(v[i * size + j], 0);
        }
      }
      const [bytes] = await backend.read(importanceOf(made, scope));
      new Float32Array(bytes!.buffer).forEach((value, column) => {
        const i = unique.indexOf(column);
        const right = 1 / v[i * size + i]! ** 2;
        assert.ok(Math.abs(value - right) <= 8 * 2 ** -24 * right);
      });
    },
  );
}

onEveryBackend(
  "a matrix that is not positive definite has no factor and takes no memory, and damping cures it",
  async (device) => {
    const { backend, peakBytes } = counted(device);
    using scope = backend.scope();
    const tensor = scope.alloc("f32", [3, 3]);
    backend.write(tensor, new Uint8Array(Float32Array.of(1, 0, 2, 0, 1, 0, 2, 0, 1).buffer));
    const sums = {
      size: 3,
      panels: [{ first: 0, rows: 3, tensor }],
      tokens: 2,
      diagonal: Float32Array.of(1, 1, 1),
    };
    const order = Uint32Array.of(0, 1, 2);
    const peaks: number[] = [];
    for (const [damping, sound] of [[0.5, false], [0.6, false], [2, true]] as const) {
      const made = await soundFactor(sums, { scope, order, damping });
      assert.equal(made !== undefined, sound, `λ = ${damping}`);
      peaks.push(peakBytes());
      // What was made stays until the scope ends.
      if (made) assert.equal((await backend.read(made.v.panels[0]!.tensor))[0]!.length, 36);
    }
    assert.equal(new Set(peaks).size, 1, `${peaks}`);
  },
);

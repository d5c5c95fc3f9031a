/**
 * Targets that are moved to repair errors upstream, against the formula in float64; and that
 * repairing helps.
 */
import assert from "node:assert/strict";
import type { Scope, Tensor } from "../src/backend.ts";
import type { Gram } from "../src/linalg/panels.ts";
import { gram } from "../src/observers/gram.ts";
import {
  type Difference,
  observeInputs,
  observeResiduals,
  PROPAGATION_DAMPING,
} from "../src/calibration/propagation.ts";
import { gaussian } from "./conformance/given.ts";
import { onEveryBackend } from "./present.ts";
import { withOwn } from "./run_given.ts";

/** Rows × columns, in row-major order. */
type Matrix = { readonly rows: number; readonly columns: number; readonly at: Float64Array };

function matrix(rows: number, columns: number, value: (r: number, c: number) => number): Matrix {
  const at = Float64Array.from(
    { length: rows * columns },
    (_, i) => value(Math.floor(i / columns), i % columns),
  );
  return { rows, columns, at };
}

function product(a: Matrix, b: Matrix): Matrix {
  return matrix(a.rows, b.columns, (r, c) => {
    let sum = 0;
    for (let k = 0; k < a.columns; k++) sum += a.at[r * a.columns + k]! * b.at[k * b.columns + c]!;
    return sum;
  });
}

const transposed = (a: Matrix) => matrix(a.columns, a.rows, (r, c) => a.at[c * a.columns + r]!);
const plus = (a: Matrix, b: Matrix, factor = 1) =>
  matrix(a.rows, a.columns, (r, c) => a.at[r * a.columns + c]! + factor * b.at[r * a.columns + c]!);

/** a·(H + λI)⁻¹ by Gauss and Jordan. */
function solved(a: Matrix, h: Matrix, lambda: number): Matrix {
  const n = h.rows;
  const left = h.at.slice();
  for (let i = 0; i < n; i++) left[i * n + i]! += lambda;
  const right = transposed(a).at.slice();
  for (let p = 0; p < n; p++) {
    const pivot = left[p * n + p]!;
    for (let r = 0; r < n; r++) {
      if (r === p) continue;
      const factor = left[r * n + p]! / pivot;
      for (let c = p; c < n; c++) left[r * n + c]! -= factor * left[p * n + c]!;
      for (let c = 0; c < a.rows; c++) right[r * a.rows + c]! -= factor * right[p * a.rows + c]!;
    }
  }
  return matrix(a.rows, n, (r, c) => right[c * a.rows + r]! / left[c * n + c]!);
}

const [TOKENS, CHANNELS, ROWS] = [3 * 701, 75, 37] as const;

/** x as a quantized model gives it, X as the original; likewise the residual streams; a weight. */
function given() {
  let seed = 1;
  const random = (rows: number, columns: number, size: number): Matrix => {
    const at = Float64Array.from(gaussian(rows * columns, seed++, size));
    return { rows, columns, at };
  };
  // Channels that go together, so that a linear map can repair.
  const mix = random(CHANNELS, CHANNELS, 0.3);
  const original = product(random(TOKENS, CHANNELS, 1), mix);
  const lacking = product(original, random(CHANNELS, CHANNELS, 0.03));
  const quantized = plus(plus(original, lacking, -1), random(TOKENS, CHANNELS, 0.1));
  const residual = random(TOKENS, ROWS, 1);
  const error = product(quantized, random(CHANNELS, ROWS, 0.02));
  const weight = random(ROWS, CHANNELS, 0.2);
  return { original, quantized, residual, moved: plus(residual, error, -1), weight };
}

function upload({ rows, columns, at }: Matrix, scope: Scope, from = 0, to = rows): Tensor {
  const tensor = scope.alloc("f32", [to - from, columns]);
  const values = Float32Array.from(at.subarray(from * columns, to * columns));
  scope.backend.write(tensor, new Uint8Array(values.buffer));
  return tensor;
}

async function floats(tensor: Tensor, scope: Scope): Promise<Float32Array> {
  const [bytes] = await scope.backend.read(tensor);
  return new Float32Array(bytes!.buffer);
}

/** What the differences of three windows make of a weight whose rows are asked for in two parts. */
async function move(
  difference: Difference,
  { x, gap, weight, scope }: {
    x: Matrix;
    gap: { original: Matrix; quantized: Matrix };
    weight: Matrix;
    scope: Scope;
  },
): Promise<Matrix> {
  const observation = gram.open({ channels: CHANNELS, tokens: TOKENS, scope });
  for (let window = 0; window < 3; window++) {
    const [from, to] = [window * TOKENS / 3, (window + 1) * TOKENS / 3];
    using scratch = scope.backend.scope();
    const tokens = upload(x, scratch, from, to);
    await observation.add(tokens);
    await difference.add(tokens, {
      original: upload(gap.original, scratch, from, to),
      quantized: upload(gap.quantized, scratch, from, to),
    });
  }
  const mover = await difference.finish(await observation.finish() as Gram, scope);
  assert.ok(mover);
  const parts: number[] = [];
  for (const [from, to] of [[0, 20], [20, ROWS]] as const) {
    const part = upload(weight, scope, from, to);
    await mover.move(part, Uint32Array.from({ length: to - from }, (_, i) => from + i));
    parts.push(...await floats(part, scope));
  }
  return { rows: ROWS, columns: CHANNELS, at: Float64Array.from(parts) };
}

const norm = (a: Matrix) => Math.hypot(...a.at);

/** The formula at the head of propagation.ts. */
function expected({ join }: { join: boolean }): Matrix {
  const { original, quantized: x, residual, moved, weight } = given();
  const h = product(transposed(x), x);
  const lambda = PROPAGATION_DAMPING / TOKENS *
    matrix(1, CHANNELS, (_, c) => h.at[c * CHANNELS + c]!).at.reduce((a, b) => a + b);
  const inputs = product(weight, product(transposed(plus(original, x, -1)), x));
  const residuals = product(transposed(plus(residual, moved, -1)), x);
  const pull = join ? plus(inputs, residuals) : inputs;
  return plus(weight, solved(pull, h, lambda));
}

onEveryBackend("targets are moved by what the inputs lack, as the formula says", async (device) => {
  const { original, quantized, weight } = given();
  // A device whose tensors are small, so that sums are kept in panels.
  for (const backend of [device, withOwn(device, { maxTensorBytes: 64 * CHANNELS * 4 })]) {
    using scope = backend.scope();
    const difference = observeInputs(CHANNELS, { scope });
    const gap = { original, quantized };
    const made = await move(difference, { x: quantized, gap, weight, scope });
    const wanted = expected({ join: false });
    assert.ok(norm(plus(wanted, weight, -1)) > 0.01 * norm(weight));
    assert.ok(norm(plus(made, wanted, -1)) < 1e-4 * norm(plus(wanted, weight, -1)));
  }
});

onEveryBackend(
  "where the output joins the residual stream, also by what that lacks",
  async (device) => {
    const { original, quantized, residual, moved, weight } = given();
    using scope = device.scope();
    // What the original's residual stream is after the linear.
    const next = plus(residual, product(original, transposed(weight)));
    const difference = observeResiduals({ channels: CHANNELS, rows: ROWS, times: 1 }, { scope });
    const gap = { original: next, quantized: moved };
    const made = await move(difference, { x: quantized, gap, weight, scope });
    const wanted = expected({ join: true });
    assert.ok(norm(plus(made, wanted, -1)) < 1e-4 * norm(plus(wanted, weight, -1)));
    // The error that is there already is a linear map of the input, and gone but for the damping.
    const before = plus(next, plus(moved, product(quantized, transposed(weight))), -1);
    const after = plus(next, plus(moved, product(quantized, transposed(made))), -1);
    assert.ok(norm(after) < 0.7 * norm(before), `${norm(before)} → ${norm(after)}`);
  },
);

onEveryBackend("streams that do not differ leave a target as it is", async (device) => {
  const { quantized, weight } = given();
  using scope = device.scope();
  const gap = { original: quantized, quantized };
  const made = await move(observeInputs(CHANNELS, { scope }), { x: quantized, gap, weight, scope });
  assert.deepEqual([...made.at], [...Float32Array.from(weight.at)]);
});

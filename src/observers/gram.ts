/**
 * The Gram matrix Σ x·xᵀ of a linear's input, which GPTQ calls the Hessian but for a factor
 * 2/tokens: symmetric, accumulated by its lower half, one window's products at a time, so that a
 * sum of many tokens is a sum of few partial sums (f32 throughout).
 */
import { copyRectangle } from "../ops/copy.ts";
import { diagonal } from "../ops/diagonal.ts";
import { multiply } from "../ops/gemm.ts";
import { mirror } from "../ops/mirror.ts";
import { Pace } from "../pace.ts";
import type { Observer } from "../observer.ts";
import { allocPanels, type Gram, type Panels } from "../linalg/panels.ts";
import { restorePanels, savePanels } from "../linalg/saved_panels.ts";
import { restoreNumber, saveNumber } from "../carry.ts";
import type { Backend, Scope } from "../backend.ts";

/** See the head of this file. */
export const gram: Observer<Gram> = {
  name: "gram",
  bytes: (channels) => channels * channels * 4,
  open({ channels, scope, signal }) {
    const { backend } = scope;
    const pace = new Pace(backend, signal);
    const sums = allocPanels(channels, scope);
    let tokens = 0;
    return {
      async add(x) {
        const [k = 0] = x.shape;
        for (const { first, rows, tensor } of sums.panels) {
          multiply(backend, {
            a: { tensor: x, column: first, transposed: true },
            b: { tensor: x, transposed: true },
            c: { tensor },
          }, { m: rows, n: first + rows, k, add: tokens > 0, half: "lower", diagonal: first });
          await pace.keep();
        }
        tokens += k;
      },
      async save(to) {
        await saveNumber(tokens, to);
        await savePanels(sums, { to, half: "lower" }, backend);
      },
      async restore(from) {
        const more = await restoreNumber(from);
        await restorePanels(sums, { from, half: "lower", add: tokens > 0 }, backend);
        tokens += more;
      },
      async finish() {
        await fillUpperHalf(sums, { backend, pace });
        return { ...sums, tokens, diagonal: await readDiagonal(sums, scope) };
      },
    };
  },
};

/** Queue the copying of the lower half of a symmetric matrix to its upper half. */
async function fillUpperHalf(
  { panels }: Panels,
  { backend, pace }: { readonly backend: Backend; readonly pace: Pace },
): Promise<void> {
  for (const [i, panel] of panels.entries()) {
    backend.run(mirror, { h: panel.tensor }, { first: panel.first });
    for (const later of panels.slice(i + 1)) {
      copyRectangle(backend, {
        from: { tensor: later.tensor, column: panel.first, transposed: true },
        to: { tensor: panel.tensor, column: later.first },
      }, { rows: panel.rows, columns: later.rows });
      await pace.keep();
    }
  }
}

/** The diagonal of a square matrix, on the host. */
async function readDiagonal(
  { size, panels }: Panels,
  scope: Scope,
): Promise<Float32Array<ArrayBuffer>> {
  const { backend } = scope;
  using scratch = backend.scope();
  const order = scratch.alloc("u32", [size]);
  backend.write(order, new Uint8Array(Uint32Array.from({ length: size }, (_, i) => i).buffer));
  const y = scratch.alloc("f32", [size]);
  for (const { first, tensor } of panels) {
    backend.run(diagonal, { m: tensor, order, y }, { first, inverse_square: 0 });
  }
  const [bytes] = await backend.read(y);
  return new Float32Array(bytes!.buffer);
}

/** Matrices as bytes, some rows after the other, and back: put in their place, or added to them. */
import type { Backend } from "../backend.ts";
import type { CarryReader, CarryWriter } from "../carry.ts";
import { SPILL_BYTES } from "../limits.ts";
import { add } from "../ops/add.ts";
import { copyRectangle } from "../ops/copy.ts";
import { Pace } from "../pace.ts";
import type { Panel } from "./panels.ts";

/** What of a matrix is saved. */
interface Saved {
  /** Of a symmetric matrix, its lower half; else all of it. */
  readonly half?: "lower";
}

/** Write a matrix, in bytes that do not depend on its panels but for where the lower half ends. */
export async function savePanels(
  matrix: { readonly size: number; readonly panels: readonly Panel[] },
  { to, half }: Saved & { readonly to: CarryWriter },
  backend: Backend,
): Promise<void> {
  for (const { tensor, row, rows, columns } of slicesOf(matrix, half)) {
    using scratch = backend.scope();
    const part = scratch.alloc("f32", [rows, columns]);
    copyRectangle(backend, { from: { tensor, row }, to: { tensor: part } }, { rows, columns });
    const [bytes] = await backend.read(part);
    await to.write(bytes!);
  }
}

/** Take a matrix back, or add it to one that is there. */
export async function restorePanels(
  matrix: { readonly size: number; readonly panels: readonly Panel[] },
  { from, half, add: adds }: Saved & { readonly from: CarryReader; readonly add: boolean },
  backend: Backend,
): Promise<void> {
  const pace = new Pace(backend);
  for (const { tensor, row, rows, columns } of slicesOf(matrix, half)) {
    using scratch = backend.scope();
    const y = scratch.alloc("f32", [rows, columns]);
    backend.write(y, await from.read(4 * rows * columns));
    if (adds) {
      const x = scratch.alloc("f32", [rows, columns]);
      copyRectangle(backend, { from: { tensor, row }, to: { tensor: x } }, { rows, columns });
      // In the order of the sums: what was there, and what comes.
      backend.run(add, { y, x }, { times: 1, other: 1 });
      copyRectangle(backend, { from: { tensor: x }, to: { tensor, row } }, { rows, columns });
    } else {
      copyRectangle(backend, { from: { tensor: y }, to: { tensor, row } }, { rows, columns });
    }
    await pace.keep();
  }
}

/** Rows at a time, as far as they are saved. */
function* slicesOf(
  { size, panels }: { readonly size: number; readonly panels: readonly Panel[] },
  half: "lower" | undefined,
) {
  const most = Math.max(1, Math.floor(SPILL_BYTES / (4 * size)));
  for (const { first, rows: all, tensor } of panels) {
    for (let row = 0; row < all; row += most) {
      const rows = Math.min(most, all - row);
      const columns = half ? first + row + rows : size;
      yield { tensor, row, rows, columns };
    }
  }
}

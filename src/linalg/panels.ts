/**
 * A square matrix on a device, as panels of rows: one where a kernel can bind it whole, more where
 * it cannot (14336 columns are 822 MB, and a GPU may take 128 MiB). On the CPU, what is larger than
 * its kernels' memory has room for lies beside it.
 */
import type { Backend, MatrixPlaces, Scope, Tensor } from "../backend.ts";
import { copyRectangle } from "../ops/copy.ts";
import { HALF_BLOCK, multiply } from "../ops/gemm.ts";
import type { Pace } from "../pace.ts";

/** Rows of a matrix that one tensor holds. */
export interface Panel {
  /** Its first row in the matrix. */
  readonly first: number;
  readonly rows: number;
  /** f32[rows, size] */
  readonly tensor: Tensor;
}

/**
 * Columns between which an error is spread by one product: a block of 64 columns that takes what
 * hundreds of blocks before it left gives a GPU too few sums at a time, each of them long.
 */
export const SPAN = 512;

/** f32[size, size] in panels whose rows are a multiple of 64, but for the last. */
export interface Panels {
  readonly size: number;
  readonly panels: readonly Panel[];
}

/** Σ x·xᵀ of a linear's input over all tokens, both halves. */
export interface Gram extends Panels {
  readonly tokens: number;
  /** Σ x_c² by channel, on the host. */
  readonly diagonal: Float32Array<ArrayBuffer>;
}

/** Rows of each panel of a square matrix of `size` columns. */
export function panelRows(
  size: number,
  { maxTensorBytes }: Pick<Backend, "maxTensorBytes">,
): number {
  const fitting = Math.floor(maxTensorBytes / (size * 4 * HALF_BLOCK)) * HALF_BLOCK;
  return Math.min(size, Math.max(HALF_BLOCK, fitting));
}

/** Where an f32 matrix may lie. */
export type Place = "device" | "outside" | "disk";

/** Where an f32 matrix lies; only those in panels lie on disk. */
export function placeOf(
  [rows, columns]: readonly [number, number],
  { outsideBytes, diskBytes = Infinity }: MatrixPlaces = { outsideBytes: Infinity },
  { inPanels = false }: { readonly inPanels?: boolean } = {},
): Place {
  const bytes = rows * columns * 4;
  if (inPanels && bytes >= diskBytes) return "disk";
  return bytes >= outsideBytes ? "outside" : "device";
}

/** Bytes of a panel on disk at most, which is what an op has of it in memory. */
export const DISK_PANEL_BYTES = 128 * 2 ** 20;

/** Memory for rows × columns f32 of which products are made; outside, where the matrix is large. */
export function allocMatrix(
  [rows, columns]: readonly [number, number],
  scope: Scope,
  outside: boolean = placeOf([rows, columns], scope.backend.matrixPlaces) === "outside",
): Tensor {
  const { backend } = scope;
  return outside
    ? scope.adopt(backend.allocOutside!([rows, columns]))
    : scope.alloc("f32", [rows, columns]);
}

/** Memory for a square matrix, with undefined contents. */
export function allocPanels(size: number, scope: Scope): Panels {
  const { backend } = scope;
  const place = placeOf([size, size], backend.matrixPlaces, { inPanels: true });
  const most = place === "disk" ? DISK_PANEL_BYTES : Infinity;
  const rows = panelRows(size, { maxTensorBytes: Math.min(most, backend.maxTensorBytes) });
  const panels = Array.from({ length: Math.ceil(size / rows) }, (_, i): Panel => {
    const [first, count] = [i * rows, Math.min(rows, size - i * rows)];
    const tensor = place === "disk"
      ? scope.adopt(backend.allocOnDisk!([count, size]))
      : allocMatrix([count, size], scope, place === "outside");
    return { first, rows: count, tensor };
  });
  return { size, panels };
}

/**
 * A block on the diagonal where any kernel reads it: in its panel, or copied to the same columns of
 * rows of its own.
 */
export interface DiagonalBlock {
  readonly tensor: Tensor;
  /** The row of the matrix that the tensor's first row is. */
  readonly panel: number;
}

/** Gives blocks on the diagonal, of at most `most` rows, to kernels; each until the next is asked. */
export function diagonalBlocks(
  { size, panels }: Panels,
  most: number,
  scope: Scope,
): (panel: Panel, first: number, count: number) => DiagonalBlock {
  if (!panels.some(({ tensor }) => tensor.outside)) {
    return ({ first: panel, tensor }) => ({ tensor, panel });
  }
  const rows = scope.alloc("f32", [most, size]);
  return ({ first: top, tensor }, first, count) => {
    copyRectangle(scope.backend, {
      from: { tensor, row: first - top, column: first },
      to: { tensor: rows, column: first },
    }, { rows: count, columns: count });
    return { tensor: rows, panel: first };
  };
}

/** How a product with panels is made. */
interface ProductOptions {
  readonly backend: Backend;
  readonly alpha?: number;
  readonly add?: boolean;
  /** Kept after each panel. */
  readonly pace: Pace;
}

/** Queue y[R, C] (+)= alpha·x·M, for x f32[R, C] and a square matrix M. */
export async function multiplyByPanels(
  x: Tensor,
  { size, panels }: Panels,
  y: Tensor,
  { backend, alpha = 1, add = false, pace }: ProductOptions,
): Promise<void> {
  const [m = 0] = x.shape;
  for (const [i, { first, rows, tensor }] of panels.entries()) {
    multiply(backend, {
      a: { tensor: x, column: first },
      b: { tensor, transposed: true },
      c: { tensor: y },
    }, { m, n: size, k: rows, alpha, add: add || i > 0 });
    await pace.keep();
  }
}

/** Queue y[R, C] = alpha·x·Mᵀ (+ y), for x f32[R, C] and a square matrix M. */
export async function multiplyByTransposed(
  x: Tensor,
  { size, panels }: Panels,
  y: Tensor,
  { backend, alpha = 1, add = false, pace }: ProductOptions,
): Promise<void> {
  const [m = 0] = x.shape;
  for (const { first, rows, tensor } of panels) {
    multiply(backend, {
      a: { tensor: x },
      b: { tensor },
      c: { tensor: y, column: first },
    }, { m, n: rows, k: size, alpha, add });
    await pace.keep();
  }
}

/**
 * Queue y[R, n] (+)= x·M[first … first + n, :]ᵀ, for x f32[R, C] and some rows of a square matrix
 * M. With `within`, only these columns of x and of the rows are multiplied.
 */
export function multiplyByRows(
  x: Tensor,
  { size, panels }: Panels,
  y: Tensor,
  { backend, first, count: n, within = { first: 0, count: size }, add = false }: {
    readonly backend: Backend;
    readonly first: number;
    readonly count: number;
    readonly add?: boolean;
    readonly within?: { readonly first: number; readonly count: number };
  },
): void {
  const [m = 0] = x.shape;
  for (const { first: top, rows, tensor } of panels) {
    const [from, to] = [Math.max(first, top), Math.min(first + n, top + rows)];
    if (from >= to) continue;
    multiply(backend, {
      a: { tensor: x, column: within.first },
      b: { tensor, row: from - top, column: within.first },
      c: { tensor: y, column: from - first },
    }, { m, n: to - from, k: within.count, add });
  }
}

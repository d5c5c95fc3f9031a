/**
 * Matrices that a WebAssembly memory has no room for (28,672 columns squared are 3.3 GB): in
 * buffers of their own, handed to a BLAS in place, and to Sluice's kernels rectangle by rectangle.
 * Only products and what moves numbers take them.
 */
import type { Tensor } from "../../backend.ts";
import type { Arrays, Dims, Op, Scalars } from "../../op.ts";
import { elementCount, type Shape } from "../../tensor.ts";

/** Rows and columns of a rectangle on its way to a kernel: 4 MiB. */
export const STAGED = 1024;
/** Rows and columns that a transposition moves at once, so that both ends stay in cache. */
const TURNED = 64;

/** f32 in a buffer of its own; its memory is given back when it is disposed of. */
export class OutsideTensor implements Tensor {
  readonly dtype = "f32";
  readonly shape: Shape;
  readonly outside = true;
  readonly owner: object;
  #array: Float32Array<ArrayBuffer> | undefined;

  /**
   * @param owner The backend, which takes no others.
   * @throws {RangeError} the system has not enough memory.
   */
  constructor(owner: object, shape: Shape) {
    this.owner = owner;
    this.shape = shape;
    this.#array = new Float32Array(elementCount(shape));
  }

  get array(): Float32Array<ArrayBuffer> {
    if (!this.#array) throw new TypeError(`Cannot use a f32[${this.shape}] tensor: it was freed`);
    return this.#array;
  }

  get bytes(): Uint8Array<ArrayBuffer> {
    return new Uint8Array(this.array.buffer);
  }

  [Symbol.dispose](): void {
    // A buffer that is let go waits for the garbage collector, which does not see its size.
    this.#array?.buffer.transfer(0);
    this.#array = undefined;
  }
}

/** A matrix in memory, row by row. */
export interface Matrix {
  readonly array: Float32Array<ArrayBufferLike>;
  readonly columns: number;
}

/** A rectangle's first row and column. */
interface Corner {
  readonly row: number;
  readonly column: number;
}

/** to[i, j] = from[i, j], or from[j, i] if `transposed`, on rectangles of rows × columns. */
function moveRectangle(
  from: Matrix & Corner,
  to: Matrix & Corner,
  { rows, columns, transposed = false }: {
    readonly rows: number;
    readonly columns: number;
    readonly transposed?: boolean;
  },
): void {
  const source = from.row * from.columns + from.column;
  const target = to.row * to.columns + to.column;
  if (!transposed) {
    for (let i = 0; i < rows; i++) {
      const start = source + i * from.columns;
      to.array.set(from.array.subarray(start, start + columns), target + i * to.columns);
    }
    return;
  }
  for (let top = 0; top < rows; top += TURNED) {
    for (let left = 0; left < columns; left += TURNED) {
      const [bottom, right] = [Math.min(rows, top + TURNED), Math.min(columns, left + TURNED)];
      for (let i = top; i < bottom; i++) {
        for (let j = left; j < right; j++) {
          to.array[target + i * to.columns + j] = from.array[source + j * from.columns + i]!;
        }
      }
    }
  }
}

/** The op `mirror`: the square of `rows` columns from `first` on becomes symmetric. */
function mirrorSquare(h: Matrix, { rows, first }: { rows: number; first: number }): void {
  for (let top = 0; top < rows; top += TURNED) {
    const count = Math.min(TURNED, rows - top);
    for (let i = top; i < top + count; i++) {
      for (let j = i + 1; j < top + count; j++) {
        h.array[i * h.columns + first + j] = h.array[j * h.columns + first + i]!;
      }
    }
    const rest = rows - top - count;
    const [row, column] = [top + count, first + top];
    moveRectangle({ ...h, row, column }, { ...h, row: top, column: first + row }, {
      rows: count,
      columns: rest,
      transposed: true,
    });
  }
}

/** A part of a product that is computed at once: c[m …, n …] += a[m …, k …]·b[n …, k …]ᵀ. */
interface ProductTile {
  readonly m: number;
  readonly rows: number;
  readonly n: number;
  readonly columns: number;
  readonly k: number;
  readonly depth: number;
}

/** Rows and columns of the blocks that a `gemm` of one half computes or leaves alone. */
const BLOCK = 64;

/** The tiles of a `gemm`, those of its half if it has one, k by k for each place of c. */
function* productTiles(
  { m = 0, n = 0, k = 0, half = 0, diagonal = 0 }: Scalars,
): Generator<ProductTile> {
  /** Columns of c that rows of one block of the diagonal want. */
  const wanted = (row: number): [from: number, to: number] => {
    const place = Math.floor((row + diagonal) / BLOCK) * BLOCK;
    if (half === 0) return [0, n];
    return half === 1 ? [0, Math.min(n, place + BLOCK)] : [Math.min(n, place), n];
  };
  for (let top = 0; top < m;) {
    const next = half === 0 ? top + STAGED : (Math.floor((top + diagonal) / BLOCK) + 1) * BLOCK -
      diagonal;
    const rows = Math.min(m, next) - top;
    const [from, to] = wanted(top);
    for (let left = from; left < to; left += STAGED) {
      const columns = Math.min(to - left, STAGED);
      for (let depth = 0; depth < k; depth += STAGED) {
        yield { m: top, rows, n: left, columns, k: depth, depth: Math.min(STAGED, k - depth) };
      }
    }
    top += rows;
  }
}

/** Where something begins, and how many there are. */
type Span = readonly [from: number, count: number];

/** The matrices of a product. */
type Operand = "a" | "b" | "c";

/** How a product goes through the kernels' memory. */
interface Staging {
  /** An operand where it lies. */
  readonly whole: (name: Operand) => Matrix;
  /** Room for a tile of it where kernels reach it, of `STAGED` rows and columns. */
  readonly staged: (name: Operand) => Matrix;
  /** `gemm` of what was put there. */
  readonly multiply: (scalars: Scalars) => void;
}

/** `gemm` by kernels that do not reach its operands: tile by tile through memory that they reach. */
export function multiplyStaged(scalars: Scalars, { whole, staged, multiply }: Staging): void {
  const at = (name: Operand, row: number, column: number) => ({
    ...whole(name),
    row: scalars[`${name}_row`]! + row,
    column: scalars[`${name}_column`]! + column,
  });
  const room = (name: Operand) => ({ ...staged(name), row: 0, column: 0 });
  /** Rows and columns of an operand as they lie. */
  const bring = (name: Operand, [row, rows]: Span, [k, depth]: Span) => {
    const turned = scalars[`${name}_transposed`] === 1;
    const from = turned ? at(name, k, row) : at(name, row, k);
    const [height, width] = turned ? [depth, rows] : [rows, depth];
    moveRectangle(from, room(name), { rows: height, columns: width });
  };
  for (const { m, rows, n, columns, k, depth } of productTiles(scalars)) {
    const rectangle = { rows, columns };
    if (k === 0 && scalars.add === 1) moveRectangle(at("c", m, n), room("c"), rectangle);
    bring("a", [m, rows], [k, depth]);
    bring("b", [n, columns], [k, depth]);
    multiply({
      ...scalars,
      ...{ m: rows, n: columns, k: depth, half: 0, diagonal: 0 },
      ...{ a_row: 0, a_column: 0, b_row: 0, b_column: 0, c_row: 0, c_column: 0 },
      add: k > 0 ? 1 : scalars.add!,
    });
    if (k + depth === scalars.k) moveRectangle(room("c"), at("c", m, n), rectangle);
  }
}

/** A matrix and the corner of a rectangle of it, as scalars of an op tell them. */
function cornerOf(arrays: Arrays, columns: number, scalars: Scalars, name: "from" | "to") {
  return {
    array: arrays[name] as Float32Array,
    columns,
    row: scalars[`${name}_row`]!,
    column: scalars[`${name}_column`]!,
  };
}

/** Scalars as a kernel is given them: floats have 32 bits. */
function asPassed(op: Op, scalars: Scalars): Scalars {
  const types = op.scalars ?? {};
  return Object.fromEntries(
    Object.entries(scalars).map(([name, value]) => [
      name,
      types[name] === "f32" ? Math.fround(value) : value,
    ]),
  );
}

/** Ops that move numbers, and take matrices that no kernel reaches. */
const MOVES: ReadonlySet<string> = new Set(["copy", "mirror", "diagonal", "permute_gram"]);

/** `copy`, in an order that caches like. */
function copyOutside(arrays: Arrays, { D = 0, E = 0 }: Dims, scalars: Scalars): void {
  const { rows = 0, columns = 0, transposed = 0 } = scalars;
  moveRectangle(cornerOf(arrays, D, scalars, "from"), cornerOf(arrays, E, scalars, "to"), {
    rows,
    columns,
    transposed: transposed === 1,
  });
}

/** `mirror`, in an order that caches like. */
function mirrorOutside({ h }: Arrays, { P = 0, C = 0 }: Dims, { first = 0 }: Scalars): void {
  mirrorSquare({ array: h as Float32Array, columns: C }, { rows: P, first });
}

/**
 * Run an op that moves numbers, on matrices wherever they lie.
 *
 * @throws {TypeError} it is another op.
 */
export function moveNumbers(op: Op, arrays: Arrays, dims: Dims, scalars: Scalars): void {
  if (!MOVES.has(op.name)) {
    throw new TypeError(
      `Cannot run ${op.name} with a matrix that is kept outside the kernels' memory`,
    );
  }
  if (op.name === "copy") copyOutside(arrays, dims, scalars);
  else if (op.name === "mirror") mirrorOutside(arrays, dims, scalars);
  else op.reference(arrays, dims, asPassed(op, scalars), {});
}

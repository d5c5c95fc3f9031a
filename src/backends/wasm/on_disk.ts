/**
 * Matrices that the memory of a run has no room for: each in a file, of which an op has the part
 * that it takes in memory while it runs. The ops are those that take matrices outside of the
 * kernels' memory (outside.ts), and give the same results.
 */
import type { ScratchFile, Tensor } from "../../backend.ts";
import type { Dims, Op, OpArray, Scalars } from "../../op.ts";
import { byteLength, type Shape } from "../../tensor.ts";
import type { OutsideTensor } from "./outside.ts";

/** A part of a matrix. */
export interface Window {
  readonly row: number;
  readonly column: number;
  readonly rows: number;
  readonly columns: number;
}

/** f32[rows, columns] in a file, which is removed when it is disposed of. */
export class DiskTensor implements Tensor {
  readonly dtype = "f32";
  readonly shape: Shape;
  readonly outside = true;
  readonly owner: object;
  readonly #file: ScratchFile;

  /** @param owner The backend, which takes no others. */
  constructor(owner: object, shape: Shape, file: ScratchFile) {
    this.owner = owner;
    this.shape = shape;
    this.#file = file;
  }

  /** All of it, in memory. */
  get bytes(): Uint8Array<ArrayBuffer> {
    const bytes = new Uint8Array(byteLength(this));
    this.#file.read(0, bytes);
    return bytes;
  }

  /** Put bytes at its beginning. */
  put(bytes: Uint8Array): void {
    this.#file.write(0, bytes);
  }

  /** Copy a part of it to memory, row by row. */
  load(window: Window, into: Float32Array<ArrayBuffer>): void {
    for (const [at, part] of this.#runs(window, into)) this.#file.read(at, part);
  }

  /** Copy a part of it from memory. */
  store(window: Window, from: Float32Array<ArrayBuffer>): void {
    for (const [at, part] of this.#runs(window, from)) this.#file.write(at, part);
  }

  /** What of a window lies together: where in the file, and where in memory. */
  *#runs(
    { row, column, rows, columns }: Window,
    { buffer, byteOffset }: Float32Array<ArrayBuffer>,
  ): Generator<[at: number, part: Uint8Array<ArrayBuffer>]> {
    const [, width = 0] = this.shape;
    const together = columns === width ? rows : 1;
    const bytes = together * columns * 4;
    for (let i = 0; i < rows; i += together) {
      const at = ((row + i) * width + column) * 4;
      yield [at, new Uint8Array(buffer, byteOffset + i * columns * 4, bytes)];
    }
  }

  [Symbol.dispose](): void {
    this.#file[Symbol.dispose]();
  }
}

/** What a backend does for ops on matrices on disk. */
interface Host {
  /** Memory outside of that of the kernels. */
  readonly alloc: (shape: Shape) => OutsideTensor;
  /** Run an op on matrices in memory. */
  readonly run: (op: Op, tensors: Readonly<Record<string, Tensor>>, scalars: Scalars) => void;
  /** The elements of a tensor in memory. */
  readonly arrayOf: (tensor: Tensor) => OpArray;
}

/** What an op is run with. */
interface Call {
  readonly tensors: Readonly<Record<string, Tensor>>;
  readonly dims: Dims;
  readonly scalars: Scalars;
}

/**
 * Run an op that takes a matrix on disk.
 *
 * @throws {TypeError} it is one that no matrix outside of the kernels' memory is given to.
 */
export function runOnDisk(op: Op, call: Call, host: Host): void {
  if (op.name === "permute_gram") permuteRows(op, call, host);
  else if (op.name === "diagonal") readSquare(op, call, host);
  else runInWindows(op, call, host);
}

/** The part of an operand that an op reads, changes, or both. */
interface Use extends Window {
  readonly loaded: boolean;
  readonly stored: boolean;
}

/** By operand, what an op takes of it, and the scalars with which it takes that as a whole. */
function usesOf(
  { name }: Op,
  { P = 0 }: Dims,
  scalars: Scalars,
): { readonly uses: Readonly<Record<string, Use>>; readonly begin: (operand: string) => Scalars } {
  const begin = (operand: string) => ({ [`${operand}_row`]: 0, [`${operand}_column`]: 0 });
  const at = (operand: string, rows: number, columns: number): Window => ({
    row: scalars[`${operand}_row`]!,
    column: scalars[`${operand}_column`]!,
    ...(scalars[`${operand}_transposed`] ? { rows: columns, columns: rows } : { rows, columns }),
  });
  const [read, written] = [{ loaded: true, stored: false }, { loaded: false, stored: true }];
  if (name === "gemm") {
    const { m = 0, n = 0, k = 0, add = 0, half = 0 } = scalars;
    const c = { ...at("c", m, n), loaded: add === 1 || half !== 0, stored: true };
    return {
      uses: { a: { ...at("a", m, k), ...read }, b: { ...at("b", n, k), ...read }, c },
      begin,
    };
  }
  if (name === "copy") {
    const { rows = 0, columns = 0, transposed = 0 } = scalars;
    const from = transposed ? at("from", columns, rows) : at("from", rows, columns);
    return {
      uses: { from: { ...from, ...read }, to: { ...at("to", rows, columns), ...written } },
      begin,
    };
  }
  if (name === "mirror") {
    const h = { row: 0, column: scalars.first!, rows: P, columns: P, loaded: true, stored: true };
    return { uses: { h }, begin: () => ({ first: 0 }) };
  }
  throw new TypeError(`Cannot run ${name} with a matrix that is kept on disk`);
}

/** Run an op on copies of the parts that it takes. */
function runInWindows(op: Op, { tensors, dims, scalars }: Call, { alloc, run }: Host): void {
  using held = new DisposableStack();
  const { uses, begin } = usesOf(op, dims, scalars);
  const staged = { ...tensors };
  let moved = scalars;
  const back: (() => void)[] = [];
  for (const [name, tensor] of Object.entries(tensors)) {
    if (!(tensor instanceof DiskTensor)) continue;
    const use = uses[name]!;
    const part = held.use(alloc([use.rows, use.columns]));
    if (use.loaded) tensor.load(use, part.array);
    if (use.stored) back.push(() => tensor.store(use, part.array));
    staged[name] = part;
    moved = { ...moved, ...begin(name) };
  }
  run(op, staged, moved);
  for (const store of back) store();
}

/** `permute_gram`, a row after the other. */
function permuteRows(
  op: Op,
  { tensors: { h, m, ...others }, dims: { P = 0, Q = 0, C = 0 }, scalars }: Call,
  { alloc, arrayOf }: Host,
): void {
  const { from = 0, to = 0, damp = 0 } = scalars;
  const order = arrayOf(others.order!);
  using source = alloc([1, C]);
  using target = alloc([1, C]);
  const whole = (row: number): Window => ({ row, column: 0, rows: 1, columns: C });
  const inMemory = (tensor: Tensor, row: number) =>
    (arrayOf(tensor) as Float32Array).subarray(row * C, (row + 1) * C);
  for (let i = 0; i < Q; i++) {
    const row = order[to + i]!;
    if (row < from || row >= from + P) continue;
    if (h instanceof DiskTensor) h.load(whole(row - from), source.array);
    else source.array.set(inMemory(h!, row - from));
    op.reference({ h: source.array, order, m: target.array }, { P: 1, Q: 1, C }, {
      from: row,
      to: to + i,
      damp: Math.fround(damp),
    }, {});
    if (m instanceof DiskTensor) m.store(whole(i), target.array);
    else inMemory(m!, i).set(target.array);
  }
}

/** `diagonal`, which sees but a square of the matrix. */
function readSquare(
  op: Op,
  { tensors: { m, order, y }, dims: { P = 0 }, scalars: { first = 0, inverse_square = 0 } }: Call,
  { alloc, arrayOf }: Host,
): void {
  using square = alloc([P, P]);
  (m as DiskTensor).load({ row: 0, column: first, rows: P, columns: P }, square.array);
  op.reference(
    { m: square.array, order: arrayOf(order!).subarray(first, first + P), y: arrayOf(y!) },
    { P, C: P },
    { first: 0, inverse_square },
    {},
  );
}

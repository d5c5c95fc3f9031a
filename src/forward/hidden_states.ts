/**
 * The hidden states of an evaluation's windows while they walk the blocks: on the device up to a
 * budget, in a file beyond it.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import type { Disk, DiskWriter } from "../io/disk.ts";
import { narrow } from "../ops/narrow.ts";
import { widen } from "../ops/widen.ts";
import { size } from "../size.ts";
import { byteLength, elementCount } from "../tensor.ts";

/** Where hidden states go that the device has no room for. */
export interface SpillStore {
  readonly disk: Disk;
  /** A folder for temporary files that exists; the file made there is removed again. */
  readonly folder: string;
}

/** How states are written to disk: exactly, or rounded to half the bytes. */
export type SpillDType = "f32" | "bf16";

/**
 * The hidden states of every window of one stream: f32[T, C] each. As many windows as the budget
 * allows stay on the device, the others are a file's bytes: exactly as they were for an evaluation,
 * whose results must not depend on the budget; in bf16 for a calibration, which averages over all
 * of them.
 */
export class HiddenStates implements AsyncDisposable {
  readonly #backend: Backend;
  readonly #shape: readonly [tokens: number, channels: number];
  readonly #windows: number;
  readonly #resident: (Tensor | undefined)[];
  #spilled: Spilled | undefined;
  readonly #written = new Set<number>();
  readonly #dtype: SpillDType;

  private constructor(
    backend: Backend,
    { shape, windows, resident, spilled, dtype }: {
      shape: readonly [number, number];
      windows: number;
      resident: number;
      spilled: Spilled | undefined;
      dtype: SpillDType;
    },
  ) {
    this.#backend = backend;
    this.#dtype = dtype;
    this.#shape = shape;
    this.#windows = windows;
    this.#resident = new Array<Tensor | undefined>(resident).fill(undefined);
    this.#spilled = spilled;
  }

  /**
   * @param budget Bytes that may stay on the device; what is beyond it goes to `spill`.
   * @throws {RangeError} the budget does not hold all windows and there is no `spill`.
   * @throws {SpaceError} the spill file cannot be made.
   */
  static async open({ backend, windows, shape, budget, spill, dtype = "f32" }: {
    readonly backend: Backend;
    readonly windows: number;
    readonly shape: readonly [tokens: number, channels: number];
    readonly budget: number;
    readonly spill?: SpillStore | undefined;
    readonly dtype?: SpillDType;
  }): Promise<HiddenStates> {
    const bytes = elementCount(shape) * 4;
    const resident = Math.min(windows, Math.max(0, Math.floor(budget / bytes)));
    if (resident < windows && !spill) {
      throw new RangeError(
        `Cannot keep ${windows} windows of hidden states, ${size(windows * bytes)}, in ${
          size(budget)
        }: give a folder to spill the others to.`,
      );
    }
    const spilled = resident < windows && spill
      ? await openSpilled(spill, {
        size: byteLength({ dtype, shape }),
        count: windows - resident,
        dtype,
      })
      : undefined;
    return new HiddenStates(backend, { shape, windows, resident, spilled, dtype });
  }

  /** How many windows there are. */
  get windows(): number {
    return this.#windows;
  }

  /** Whether a window's states were set. */
  has(window: number): boolean {
    return this.#written.has(window) || this.#resident[window] !== undefined;
  }

  /** How many windows are kept on disk. */
  get spilledWindows(): number {
    return this.#windows - this.#resident.length;
  }

  /**
   * A window's states. They belong to `scope` or, when resident, to this store: do not dispose of
   * them, and read them before the window is set again.
   *
   * @throws {RangeError} the window was never set.
   */
  async get(window: number, scope: Scope): Promise<Tensor> {
    this.#check(window);
    if (window < this.#resident.length) {
      const tensor = this.#resident[window];
      if (tensor) return tensor;
    } else if (this.#written.has(window)) {
      const bytes = await this.#spilled!.read(window - this.#resident.length);
      const stored = scope.alloc(this.#dtype, this.#shape);
      this.#backend.write(stored, bytes);
      if (this.#dtype === "f32") return stored;
      const tensor = scope.alloc("f32", this.#shape);
      this.#backend.run(widen, { x: stored, y: tensor });
      return tensor;
    }
    throw new RangeError(`Cannot get the hidden states of window ${window}: they were never set`);
  }

  /**
   * Replace a window's states by `tensor`, f32[T, C] of `scope`. A resident window takes the tensor
   * over from the scope and frees the one before; setting what `get` gave is allowed.
   */
  async set(window: number, tensor: Tensor, scope: Scope): Promise<void> {
    this.#check(window);
    if (tensor.dtype !== "f32" || tensor.shape.join() !== this.#shape.join()) {
      throw new RangeError(
        `Cannot set the hidden states of window ${window}: got ${tensor.dtype}[${tensor.shape}], expected f32[${this.#shape}]`,
      );
    }
    if (window >= this.#resident.length) {
      const [bytes] = await this.#backend.read(this.#narrowed(tensor, scope));
      await this.#spilled!.write(window - this.#resident.length, bytes!);
      this.#written.add(window);
      return;
    }
    const before = this.#resident[window];
    if (before === tensor) return;
    this.#resident[window] = scope.release(tensor);
    before?.[Symbol.dispose]();
  }

  /** Forget a window's states, for which they need not be set again. */
  drop(window: number): void {
    this.#check(window);
    this.#written.delete(window);
    if (window >= this.#resident.length) return;
    this.#resident[window]?.[Symbol.dispose]();
    this.#resident[window] = undefined;
  }

  #narrowed(tensor: Tensor, scope: Scope): Tensor {
    if (this.#dtype === "f32") return tensor;
    const half = scope.alloc(this.#dtype, this.#shape);
    this.#backend.run(narrow, { x: tensor, y: half });
    return half;
  }

  #check(window: number): void {
    if (!Number.isInteger(window) || window < 0 || window >= this.#windows) {
      throw new RangeError(`Cannot find window ${window}: there are ${this.#windows}`);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const tensor of this.#resident) tensor?.[Symbol.dispose]();
    this.#resident.fill(undefined);
    const spilled = this.#spilled;
    this.#spilled = undefined;
    await spilled?.[Symbol.asyncDispose]();
  }
}

/** A file of equal parts. */
interface Spilled extends AsyncDisposable {
  read(part: number): Promise<Uint8Array<ArrayBuffer>>;
  write(part: number, bytes: Uint8Array): Promise<void>;
}

async function openSpilled(
  { disk, folder }: SpillStore,
  { size, count, dtype }: {
    readonly size: number;
    readonly count: number;
    readonly dtype: SpillDType;
  },
): Promise<Spilled> {
  const path = `${folder}/hidden-${crypto.randomUUID()}.${dtype}`;
  const writer: DiskWriter = await disk.create(path, size * count);
  return {
    async read(part) {
      // Opened anew each time: a reader takes a file that is written to in the meantime for a
      // broken one.
      await using reader = await disk.open(path);
      return await reader.read(part * size, (part + 1) * size);
    },
    write: (part, bytes) => writer.write(part * size, bytes),
    async [Symbol.asyncDispose]() {
      await writer[Symbol.asyncDispose]();
      await disk.remove(path);
    },
  };
}

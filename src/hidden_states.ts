/**
 * The hidden states of an evaluation's windows while they walk the blocks: on the device up to a budget, in a file beyond it.
 */
import type { Backend, Scope, Tensor } from "./backend.ts";
import type { Disk, DiskWriter } from "./io/disk.ts";
import { elementCount } from "./tensor.ts";

/** Where hidden states go that the device has no room for. */
export interface SpillStore {
  readonly disk: Disk;
  /** A folder for temporary files that exists; the file made there is removed again. */
  readonly folder: string;
}

/**
 * The hidden states of every window of one stream: f32[T, C] each. As many windows as the budget allows stay on the device, the others
 * are files' bytes, exactly as they were, so that results do not depend on the budget.
 */
export class HiddenStates implements AsyncDisposable {
  readonly #backend: Backend;
  readonly #shape: readonly [tokens: number, channels: number];
  readonly #windows: number;
  readonly #resident: (Tensor | undefined)[];
  #spilled: Spilled | undefined;
  readonly #written = new Set<number>();

  private constructor(
    backend: Backend,
    { shape, windows, resident, spilled }: {
      shape: readonly [number, number];
      windows: number;
      resident: number;
      spilled: Spilled | undefined;
    },
  ) {
    this.#backend = backend;
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
  static async open({ backend, windows, shape, budget, spill }: {
    readonly backend: Backend;
    readonly windows: number;
    readonly shape: readonly [tokens: number, channels: number];
    readonly budget: number;
    readonly spill?: SpillStore;
  }): Promise<HiddenStates> {
    const size = elementCount(shape) * 4;
    const resident = Math.min(windows, Math.max(0, Math.floor(budget / size)));
    if (resident < windows && !spill) {
      throw new RangeError(
        `Cannot keep ${windows} windows of hidden states, ${
          windows * size
        } bytes, in ${budget} bytes: give a folder to spill the others to.`,
      );
    }
    const spilled = resident < windows && spill
      ? await openSpilled(spill, { size, count: windows - resident })
      : undefined;
    return new HiddenStates(backend, { shape, windows, resident, spilled });
  }

  /** How many windows are kept on disk. */
  get spilledWindows(): number {
    return this.#windows - this.#resident.length;
  }

  /**
   * A window's states. They belong to `scope` or, when resident, to this store: do not dispose of them, and read them before the
   * window is set again.
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
      const tensor = scope.alloc("f32", this.#shape);
      this.#backend.write(tensor, bytes);
      return tensor;
    }
    throw new RangeError(`Cannot get the hidden states of window ${window}: they were never set`);
  }

  /**
   * Replace a window's states by `tensor`, f32[T, C] of `scope`. A resident window takes the tensor over from the scope and frees
   * the one before; setting what `get` gave is allowed.
   */
  async set(window: number, tensor: Tensor, scope: Scope): Promise<void> {
    this.#check(window);
    if (tensor.dtype !== "f32" || tensor.shape.join() !== this.#shape.join()) {
      throw new RangeError(
        `Cannot set the hidden states of window ${window}: got ${tensor.dtype}[${tensor.shape}], expected f32[${this.#shape}]`,
      );
    }
    if (window >= this.#resident.length) {
      const [bytes] = await this.#backend.read(tensor);
      await this.#spilled!.write(window - this.#resident.length, bytes!);
      this.#written.add(window);
      return;
    }
    const before = this.#resident[window];
    if (before === tensor) return;
    this.#resident[window] = scope.release(tensor);
    before?.[Symbol.dispose]();
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
  { size, count }: { readonly size: number; readonly count: number },
): Promise<Spilled> {
  const path = `${folder}/hidden-${crypto.randomUUID()}.f32`;
  const writer: DiskWriter = await disk.create(path, size * count);
  return {
    async read(part) {
      // Opened anew each time: a reader takes a file that is written to in the meantime for a broken one.
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

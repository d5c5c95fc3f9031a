/**
 * The hidden states of windows while they walk the blocks: on the device up to a budget, in a file
 * beyond it.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import type { Carried, CarryReader, CarryWriter } from "../carry.ts";
import { SPILL_BYTES } from "../limits.ts";
import { size } from "../size.ts";
import { byteLength, elementCount, sum } from "../tensor.ts";
import { type SpillDType, SpillFile, type SpillStore } from "./spill_file.ts";

/**
 * The hidden states of all windows of one stream, in stacks: f32[T, C] each. As many stacks as the
 * budget allows stay on the device, the others are a file's bytes: exactly as they were for an
 * evaluation, whose results must not depend on the budget; in bf16 for a calibration, which
 * averages over all of them.
 */
export class HiddenStates implements AsyncDisposable, Carried {
  readonly #backend: Backend;
  readonly #rows: readonly number[];
  readonly #channels: number;
  readonly #resident: (Tensor | undefined)[];
  readonly #file: SpillFile | undefined;

  private constructor(
    backend: Backend,
    { rows, channels, resident, file }: {
      rows: readonly number[];
      channels: number;
      resident: number;
      file: SpillFile | undefined;
    },
  ) {
    this.#backend = backend;
    this.#rows = rows;
    this.#channels = channels;
    this.#resident = new Array<Tensor | undefined>(resident).fill(undefined);
    this.#file = file;
  }

  /**
   * @param rows Tokens of each stack.
   * @param resident How many stacks, from the first on, stay on the device; the others go to
   * `spill`.
   * @throws {RangeError} not all stay, and there is no `spill`.
   * @throws {SpaceError} the spill file cannot be made.
   */
  static async open({ backend, rows, channels, resident, spill, dtype = "f32", batchBytes }: {
    readonly backend: Backend;
    readonly rows: readonly number[];
    readonly channels: number;
    readonly resident: number;
    readonly spill?: SpillStore | undefined;
    readonly dtype?: SpillDType;
    readonly batchBytes?: number;
  }): Promise<HiddenStates> {
    const spilled = rows.slice(resident);
    const shapes = spilled.map((tokens) => [tokens, channels] as const);
    if (spilled.length > 0 && !spill) {
      throw new RangeError(
        `Cannot keep ${size(sum(shapes, elementCount) * 4)} of hidden states in memory: ` +
          "give a folder to spill them to.",
      );
    }
    const file = spilled.length > 0 && spill
      ? await SpillFile.make(spill, { shapes, dtype, backend, batchBytes })
      : undefined;
    return new HiddenStates(backend, { rows, channels, resident, file });
  }

  /** Tokens of each stack. */
  get rows(): readonly number[] {
    return this.#rows;
  }

  /** How many stacks there are. */
  get stacks(): number {
    return this.#rows.length;
  }

  /** Whether a stack's states were set. */
  has(stack: number): boolean {
    return this.#resident[stack] !== undefined ||
      this.#file?.has(stack - this.#resident.length) === true;
  }

  /** How many stacks are kept on disk. */
  get spilledStacks(): number {
    return this.#rows.length - this.#resident.length;
  }

  /**
   * A stack's states. They belong to `scope` or, when resident, to this store: do not dispose of
   * them, and read them before the stack is set again.
   *
   * @throws {RangeError} the stack was never set.
   */
  async get(stack: number, scope: Scope): Promise<Tensor> {
    this.#check(stack);
    const tensor = stack < this.#resident.length
      ? this.#resident[stack]
      : await this.#file!.get(stack - this.#resident.length, scope);
    if (tensor) return tensor;
    throw new RangeError(`Cannot get the hidden states of stack ${stack}: they were never set`);
  }

  /**
   * Replace a stack's states by `tensor`, f32[T, C] of `scope`. A resident stack takes the tensor
   * over from the scope and frees the one before; setting what `get` gave is allowed.
   */
  async set(stack: number, tensor: Tensor, scope: Scope): Promise<void> {
    this.#check(stack);
    const shape = [this.#rows[stack]!, this.#channels];
    if (tensor.dtype !== "f32" || tensor.shape.join() !== shape.join()) {
      throw new RangeError(
        `Cannot set the hidden states of stack ${stack}: got ${tensor.dtype}[${tensor.shape}], expected f32[${shape}]`,
      );
    }
    if (stack >= this.#resident.length) {
      return await this.#file!.set(stack - this.#resident.length, tensor, scope);
    }
    const before = this.#resident[stack];
    if (before === tensor) return;
    this.#resident[stack] = scope.release(tensor);
    before?.[Symbol.dispose]();
  }

  /** Forget a stack's states, for which they need not be set again. */
  drop(stack: number): void {
    this.#check(stack);
    this.#file?.drop(stack - this.#resident.length);
    if (stack >= this.#resident.length) return;
    this.#resident[stack]?.[Symbol.dispose]();
    this.#resident[stack] = undefined;
  }

  /** The states of some stacks, all unless given, each as it is kept. */
  async save(to: CarryWriter, stacks: Iterable<number> = this.#rows.keys()): Promise<void> {
    let together: Tensor[] = [];
    const write = async () => {
      // A device is waited for once for many.
      if (together.length === 0) return;
      for (const bytes of await this.#backend.read(...together)) await to.write(bytes);
      together = [];
    };
    for (const stack of stacks) {
      if (stack >= this.#resident.length) {
        await write();
        await to.write(await this.#file!.bytes(stack - this.#resident.length));
        continue;
      }
      const tensor = this.#resident[stack];
      if (!tensor) throw new RangeError(`Cannot save stack ${stack}: it was never set`);
      together.push(tensor);
      if (sum(together, byteLength) >= SPILL_BYTES) await write();
    }
    await write();
  }

  async restore(from: CarryReader, stacks: Iterable<number> = this.#rows.keys()): Promise<void> {
    for (const stack of stacks) {
      const shape = [this.#rows[stack]!, this.#channels];
      if (stack < this.#resident.length) {
        const bytes = await from.read(byteLength({ dtype: "f32", shape }));
        this.drop(stack);
        const tensor = this.#backend.alloc("f32", shape);
        this.#resident[stack] = tensor;
        this.#backend.write(tensor, bytes);
      } else {
        const file = this.#file!;
        const bytes = await from.read(byteLength({ dtype: file.dtype, shape }));
        await file.put(stack - this.#resident.length, bytes);
      }
    }
  }

  #check(stack: number): void {
    if (!Number.isInteger(stack) || stack < 0 || stack >= this.#rows.length) {
      throw new RangeError(`Cannot find stack ${stack}: there are ${this.#rows.length}`);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const tensor of this.#resident) tensor?.[Symbol.dispose]();
    this.#resident.fill(undefined);
    await this.#file?.[Symbol.asyncDispose]();
  }
}

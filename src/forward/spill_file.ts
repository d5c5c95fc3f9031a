/**
 * Hidden states on disk. What goes there is gathered on the device until it is worth a wait, and is
 * written while the windows go on; what comes from there is read one part ahead.
 */
import type { Backend, Scope, Tensor } from "../backend.ts";
import type { Disk, DiskReader, DiskWriter } from "../io/disk.ts";
import { SPILL_BYTES } from "../limits.ts";
import { narrow } from "../ops/narrow.ts";
import { widened } from "../ops/widen.ts";
import { byteLength, type Shape, sum } from "../tensor.ts";

/** Where hidden states go that the device has no room for. */
export interface SpillStore {
  readonly disk: Disk;
  /** A folder for temporary files that exists; the file made there is removed again. */
  readonly folder: string;
}

/** How states are written to disk: exactly, or rounded to half the bytes. */
export type SpillDType = "f32" | "bf16";

/** Where a part is in the file. */
interface Place {
  readonly shape: Shape;
  readonly begin: number;
  readonly end: number;
}

/** A file of parts, each f32[T, C] for whoever sets and gets it. */
export class SpillFile implements AsyncDisposable {
  readonly #backend: Backend;
  readonly #dtype: SpillDType;
  readonly #places: readonly Place[];
  readonly #batchBytes: number;
  readonly #path: string;
  readonly #disk: Disk;
  readonly #writer: DiskWriter;
  readonly #reader: DiskReader;
  readonly #known = new Set<number>();
  /** On the device, as they will be in the file. */
  readonly #waiting = new Map<number, Tensor>();
  /** Parts that are being written, until `#writing` is settled. */
  #written: ReadonlySet<number> = new Set();
  #writing: Promise<void> = Promise.resolve();
  #ahead: { readonly part: number; readonly bytes: Promise<Uint8Array<ArrayBuffer>> } | undefined;

  private constructor(
    backend: Backend,
    { disk, path, places, batchBytes, dtype, writer, reader }: {
      disk: Disk;
      path: string;
      places: readonly Place[];
      batchBytes: number;
      dtype: SpillDType;
      writer: DiskWriter;
      reader: DiskReader;
    },
  ) {
    this.#backend = backend;
    this.#disk = disk;
    this.#path = path;
    this.#places = places;
    // Where a wait costs nothing, nothing is gained by gathering.
    this.#batchBytes = backend.fence ? batchBytes : 0;
    this.#dtype = dtype;
    this.#writer = writer;
    this.#reader = reader;
  }

  /**
   * A new file.
   *
   * @throws {SpaceError} it cannot be made.
   */
  static async make(
    { disk, folder }: SpillStore,
    { shapes, dtype, backend, batchBytes = SPILL_BYTES }: {
      readonly shapes: readonly Shape[];
      readonly dtype: SpillDType;
      readonly backend: Backend;
      /** Bytes that are worth a wait. */
      readonly batchBytes?: number | undefined;
    },
  ): Promise<SpillFile> {
    const path = `${folder}/hidden-${crypto.randomUUID()}.${dtype}`;
    let end = 0;
    const places = shapes.map((shape) => {
      const begin = end;
      return { shape, begin, end: end += byteLength({ dtype, shape }) };
    });
    const writer = await disk.create(path, end);
    const reader = await disk.open(path, { growing: true });
    return new SpillFile(backend, { disk, path, places, batchBytes, dtype, writer, reader });
  }

  /** How parts are in the file. */
  get dtype(): SpillDType {
    return this.#dtype;
  }

  /** Whether a part was set. */
  has(part: number): boolean {
    return this.#known.has(part);
  }

  /** A part, in `scope` or kept here until it is set again; undefined if it was never set. */
  async get(part: number, scope: Scope): Promise<Tensor | undefined> {
    if (!this.#known.has(part)) return undefined;
    const waiting = this.#waiting.get(part);
    if (waiting) return widened(waiting, scope);
    const bytes = await (this.#ahead?.part === part ? this.#ahead.bytes : this.#read(part));
    this.#ahead = undefined;
    const next = part + 1;
    if (this.#known.has(next) && !this.#waiting.has(next)) {
      const bytes = this.#read(next);
      // Whoever asks for it hears of a fault.
      bytes.catch(() => {});
      this.#ahead = { part: next, bytes };
    }
    const { shape } = this.#places[part]!;
    if (this.#dtype === "f32") {
      const tensor = scope.alloc("f32", shape);
      this.#backend.write(tensor, bytes);
      return tensor;
    }
    using stored = this.#backend.alloc(this.#dtype, shape);
    this.#backend.write(stored, bytes);
    return widened(stored, scope);
  }

  /** Replace a part by a tensor of `scope`, which is taken over. */
  async set(part: number, tensor: Tensor, scope: Scope): Promise<void> {
    if (this.#waiting.get(part) === tensor) return;
    this.drop(part);
    this.#known.add(part);
    this.#waiting.set(part, this.#narrowed(tensor, scope));
    if (sum([...this.#waiting.values()], byteLength) >= this.#batchBytes) await this.#flush();
  }

  /** A part as it is in the file, or will be. */
  async bytes(part: number): Promise<Uint8Array<ArrayBuffer>> {
    const waiting = this.#waiting.get(part);
    return waiting ? (await this.#backend.read(waiting))[0]! : await this.#read(part);
  }

  /** Replace a part by the bytes that {@linkcode bytes} gave. */
  async put(part: number, bytes: Uint8Array<ArrayBuffer>): Promise<void> {
    this.drop(part);
    this.#known.add(part);
    await this.#writer.write(this.#places[part]!.begin, bytes);
  }

  /** Forget a part. */
  drop(part: number): void {
    this.#known.delete(part);
    this.#waiting.get(part)?.[Symbol.dispose]();
    this.#waiting.delete(part);
    if (this.#ahead?.part === part) this.#ahead = undefined;
  }

  /** Send what waits on its way, once what is on its way is there. */
  async #flush(): Promise<void> {
    await this.#writing;
    const parts = [...this.#waiting];
    this.#waiting.clear();
    this.#written = new Set(parts.map(([part]) => part));
    this.#writing = this.#write(parts);
    // Whoever flushes next, reads what is written, or closes the file hears of a fault.
    this.#writing.catch(() => {});
    if (this.#batchBytes === 0) await this.#writing;
  }

  async #write(parts: readonly (readonly [part: number, tensor: Tensor])[]): Promise<void> {
    const all = await this.#backend.read(...parts.map(([, tensor]) => tensor));
    for (const [, tensor] of parts) tensor[Symbol.dispose]();
    await Promise.all(
      parts.map(([part], i) => this.#writer.write(this.#places[part]!.begin, all[i]!)),
    );
  }

  async #read(part: number): Promise<Uint8Array<ArrayBuffer>> {
    if (this.#written.has(part)) await this.#writing;
    const { begin, end } = this.#places[part]!;
    return await this.#reader.read(begin, end);
  }

  #narrowed(tensor: Tensor, scope: Scope): Tensor {
    if (this.#dtype === "f32") return scope.release(tensor);
    const half = this.#backend.alloc(this.#dtype, tensor.shape);
    this.#backend.run(narrow, { x: tensor, y: half });
    return half;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const tensor of this.#waiting.values()) tensor[Symbol.dispose]();
    this.#waiting.clear();
    await Promise.allSettled([this.#writing, this.#ahead?.bytes]);
    await this.#reader[Symbol.asyncDispose]();
    await this.#writer[Symbol.asyncDispose]();
    await this.#disk.remove(this.#path);
  }
}

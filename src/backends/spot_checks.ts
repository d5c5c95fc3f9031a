/**
 * A GPU whose results are held against the definitions of the ops while it works: of some calls a
 * part is copied on the device, comes back with what is read anyway, and is computed again on the
 * CPU. Results are given out only when all that was checked before them is right.
 *
 * Of calls with the same op, shapes and dtypes those are checked whose number since results were
 * last read is a power of two, so that a kernel that is wrong is found before what it made is
 * saved; fewer, where judging them would take more than a share of the time. Ops
 * that do not say how (`Op.sampling`) are not checked: what trains through a block, searches for
 * scales, factors matrices, moves them, or counts for metrics; nor are calls of which no part is
 * small, as the range of a whole tensor.
 */
import { type Backend, makeScope, type Tensor } from "../backend.ts";
import { DeviceError } from "../errors.ts";
import { argumentsOf, bindDims, type Op, parseSignature, type Scalars } from "../op.ts";
import type { Draw, Sampling } from "../sampling.ts";
import { differenceOf, type Sample } from "./spot_judge.ts";
import { copyOf, type Cut, cutOf } from "./tensor_parts.ts";

/** Bytes of the copies of one call, and of all that wait. */
const MOST_OF_A_CALL = 2 ** 20;
const MOST_WAITING = 16 * 2 ** 20;

/** After so many calls of a kind between two reads, one in as many is checked. */
const LONGEST_GAP = 256;

/** The part of the time that judging may take: as much as saving may. */
const SHARE = 1 / 50;

/** A device whose results are checked. */
export interface CheckedBackend extends Backend {
  /** Calls that were checked so far. */
  readonly checks: number;
}

/** A copy of a part of an argument, on the device. */
interface Copy {
  readonly name: string;
  readonly cut: Cut;
  readonly words: Tensor;
}

/** A call whose copies wait to be read. */
interface Waiting {
  readonly call: Omit<Sample, "before" | "after">;
  readonly before: readonly Copy[];
  readonly after: readonly Copy[];
  readonly bytes: number;
}

/**
 * The same device, checked while it works; see the head of this file. `read` and `finish` throw a
 * `DeviceError` of kind `wrong` where a result is not what an op's definition gives, and from then on
 * always.
 *
 * @param options.share The part of the time that judging may take.
 */
export function withSpotChecks(
  gpu: Backend,
  { share = SHARE }: { readonly share?: number } = {},
): CheckedBackend {
  const checker = new Checker(gpu, share);
  const own: Partial<CheckedBackend> = {
    scope: () => makeScope(checked),
    run: (op, tensors, scalars) => checker.run(op, tensors, scalars),
    read: (...tensors) => checker.read(tensors),
    finish: () => checker.finish(),
    ...(gpu.fence ? { fence: () => checker.fence() } : {}),
  };
  // A class of the GPU's has private members, so its functions are called on itself.
  const checked = new Proxy(gpu, {
    get(target, key) {
      if (key === "checks") return checker.checks;
      if (key in own) return Reflect.get(own, key) as unknown;
      const value = Reflect.get(target, key) as unknown;
      return typeof value === "function" ? value.bind(target) : value;
    },
  }) as CheckedBackend;
  return checked;
}

class Checker {
  readonly #gpu: Backend;
  /** Calls since the last read, by kind. */
  readonly #counts = new Map<string, number>();
  readonly #draw: Draw = drawing();
  #waiting: Waiting[] = [];
  #bytes = 0;
  /** All checks of reads so far. */
  #settled: Promise<void> = Promise.resolve();
  #wrong: DeviceError | undefined;
  readonly #share: number;
  readonly #begun = performance.now();
  /** Milliseconds that judging took. */
  #spent = 0;
  checks = 0;

  constructor(gpu: Backend, share: number) {
    this.#gpu = gpu;
    this.#share = share;
  }

  run(op: Op, tensors: Readonly<Record<string, Tensor>>, scalars: Scalars = {}): void {
    const plan = op.sampling && this.#isChosen(op, tensors)
      ? this.#plan(op, op.sampling, { tensors, scalars })
      : undefined;
    if (!plan) return this.#gpu.run(op, tensors, scalars);
    const { call, cuts, bytes } = plan;
    using undo = new DisposableStack();
    const copy = (name: string): Copy => {
      const cut = cuts.get(name)!;
      return { name, cut, words: undo.use(copyOf(this.#gpu, { tensor: tensors[name]!, cut })) };
    };
    const outputs = Object.keys(op.outputs);
    const before = [...Object.keys(op.inputs), ...op.sampling?.updates ? outputs : []].map(copy);
    this.#gpu.run(op, tensors, scalars);
    const after = outputs.map(copy);
    undo.move();
    this.#waiting.push({ call, before, after, bytes });
    this.#bytes += bytes;
  }

  async read(tensors: readonly Tensor[]): Promise<Uint8Array<ArrayBuffer>[]> {
    const waiting = this.#takeWaiting();
    const words = waiting.flatMap(({ before, after }) => [...before, ...after])
      .map(({ words }) => words);
    // What a device that failed left in the copies says nothing of how it computes.
    const reading = this.#gpu.read(...tensors, ...words)
      .finally(() => words.forEach((tensor) => tensor[Symbol.dispose]()));
    const earlier = this.#settled;
    const checking = reading.then((bytes) => this.#check(waiting, bytes.slice(tensors.length)));
    this.#settled = Promise.allSettled([earlier, checking]).then(() => {});
    const results = await reading;
    await checking;
    await earlier;
    if (this.#wrong) throw this.#wrong;
    return results.slice(0, tensors.length);
  }

  async finish(): Promise<void> {
    if (this.#waiting.length > 0) await this.read([]);
    else await this.#gpu.finish();
    await this.#settled;
    if (this.#wrong) throw this.#wrong;
  }

  async fence(): Promise<void> {
    try {
      await this.#gpu.fence?.();
    } catch (error) {
      for (const { before, after } of this.#takeWaiting()) {
        for (const { words } of [...before, ...after]) words[Symbol.dispose]();
      }
      throw error;
    }
    if (this.#wrong) throw this.#wrong;
  }

  #takeWaiting(): Waiting[] {
    const waiting = this.#waiting;
    this.#waiting = [];
    this.#bytes = 0;
    this.#counts.clear();
    return waiting;
  }

  #isChosen(op: Op, tensors: Readonly<Record<string, Tensor>>): boolean {
    let kind = op.name;
    for (const name in tensors) kind += ` ${tensors[name]!.dtype}${tensors[name]!.shape}`;
    const count = (this.#counts.get(kind) ?? 0) + 1;
    this.#counts.set(kind, count);
    const chosen = count < LONGEST_GAP
      ? Number.isInteger(Math.log2(count))
      : count % LONGEST_GAP === 0;
    return chosen && !(this.#spent > this.#share * (performance.now() - this.#begun));
  }

  /** What to copy of a call; undefined where it is too much, or nothing. */
  #plan(
    op: Op,
    sampling: Sampling,
    { tensors, scalars }: {
      readonly tensors: Readonly<Record<string, Tensor>>;
      readonly scalars: Scalars;
    },
  ): { call: Waiting["call"]; cuts: ReadonlyMap<string, Cut>; bytes: number } | undefined {
    const dims = bindDims(op, tensors, scalars);
    if (Object.values(dims).some((size) => size === 0)) return undefined;
    const part = sampling.part(dims, scalars, this.#draw);
    if (!part) return undefined;
    const cuts = new Map(
      argumentsOf(op).map(([name, signature]) => {
        const names = parseSignature(signature).dims;
        const ranges = names.map((dim) => part.ranges[dim] ?? [0, dims[dim]!] as const);
        const shape = names.map((dim) => dims[dim]!);
        return [name, cutOf(tensors[name]!.dtype, shape, ranges)];
      }),
    );
    const bytes = 4 * [...cuts.values()].reduce((sum, { words }) => sum + words, 0);
    if (bytes > MOST_OF_A_CALL || this.#bytes + bytes > MOST_WAITING) return undefined;
    return { call: { op, scalars: { ...scalars, ...part.scalars } }, cuts, bytes };
  }

  async #check(
    waiting: readonly Waiting[],
    bytes: readonly Uint8Array<ArrayBuffer>[],
  ): Promise<void> {
    let at = 0;
    const begun = performance.now();
    using _counted = {
      [Symbol.dispose]: () => this.#spent += performance.now() - begun,
    };
    for (const { call, before, after } of waiting) {
      const parts = (copies: readonly Copy[]) =>
        Object.fromEntries(copies.map(({ name, cut }) => [name, { cut, bytes: bytes[at++]! }]));
      const sample = { ...call, before: parts(before), after: parts(after) };
      const difference = await differenceOf(sample);
      if (difference === "unknown") continue;
      this.checks++;
      if (difference === undefined) continue;
      this.#wrong ??= new DeviceError(
        `The GPU "${this.#gpu.description}" computes wrongly: ${difference.told}. Its results cannot ` +
          "be trusted, and a run does not go on from them: use another driver, or `device` wasm.",
        { kind: "wrong", backend: this.#gpu.name },
      );
    }
  }
}

/** Numbers by chance, the same in every run (a linear congruential generator). */
function drawing(): Draw {
  let state = 1;
  return (below) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return Math.floor(state / 2 ** 32 * below);
  };
}

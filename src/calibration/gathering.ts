/**
 * What is gathered of all windows at one stop: in one go, or of shards of the windows apart, which
 * then add up in order. Where shards are on several machines, each makes sums of those that it
 * holds, and all of them add up all.
 */
import type { Scope, Tensor } from "../backend.ts";
import type { Carried, CarryReader, CarryWriter } from "../carry.ts";
import type { Observations } from "../observer.ts";
import type { Difference, Gap } from "./propagation.ts";

/** What is gathered. What is restored counts as the windows that come next. */
export interface Gathering extends Carried {
  /** Take in a stack of windows: f32[T, C], and what is to be made up for there. */
  add(x: Tensor, gap: Gap | undefined): Promise<void>;
}

/** What observers see of a stage's input, and how it lacks what the original model has there. */
export class StageGathering implements Gathering {
  readonly observations: Observations;
  readonly difference: Difference | undefined;

  constructor(observations: Observations, difference?: Difference) {
    this.observations = observations;
    this.difference = difference;
  }

  async add(x: Tensor, gap: Gap | undefined): Promise<void> {
    await this.observations.add(x);
    if (gap) await this.difference?.add(x, gap);
  }

  async save(to: CarryWriter): Promise<void> {
    await this.observations.save(to);
    await this.difference?.save(to);
  }

  async restore(from: CarryReader): Promise<void> {
    await this.observations.restore(from);
    await this.difference?.restore(from);
  }
}

/** Begins to gather, in a scope, from a token of all windows on. */
export type OpenGathering<G extends Gathering = Gathering> = (
  at: { readonly scope: Scope; readonly firstToken: number },
) => G;

/** Where machines that hold shards of one calibration exchange what they gathered. */
export interface ShardExchange {
  /** Whether a shard's sums at a stop are there. */
  has(stop: string, shard: number): Promise<boolean>;
  put(stop: string, shard: number, save: (to: CarryWriter) => Promise<void>): Promise<void>;
  /** Wait until a shard's sums are there, whoever makes them, and take them. */
  take(stop: string, shard: number, restore: (from: CarryReader) => Promise<void>): Promise<void>;
}

/** Have one take what the other saves, piece by piece. */
export async function handOver(from: Carried, to: Carried): Promise<void> {
  const { readable, writable } = new TransformStream<Piece, Piece>();
  const [writer, reader] = [writable.getWriter(), readable.getReader()];
  await Promise.all([
    from.save({ write: (bytes) => writer.write(bytes) }).finally(() => writer.close()),
    to.restore({
      async read(size) {
        const { value } = await reader.read();
        if (value?.length === size) return value;
        throw new RangeError(`Cannot hand over ${value?.length ?? "no"} bytes where ${size} fit`);
      },
    }).catch(async (error) => {
      await reader.cancel(error);
      throw error;
    }),
  ]);
}

type Piece = Uint8Array<ArrayBuffer>;

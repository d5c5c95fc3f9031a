/**
 * Windows that walk through a model together: as many in one tensor, below each other, as a product
 * wants rows to keep a device busy. They do not see each other, and what becomes of one does not
 * depend on which stand beside it.
 */
import type { DeviceLimits } from "../backend.ts";
import type { Model } from "../family.ts";
import { graphsOf } from "../graph/block_graph.ts";
import { sum } from "../tensor.ts";
import type { WindowsRequest } from "./planned.ts";

type Windows = Pick<WindowsRequest, "windows" | "seqLen" | "stackTokens" | "shards">;

/** What decides how many windows are stacked. */
export interface Stacking {
  readonly model: Model;
  readonly device: Pick<DeviceLimits, "productRows" | "productElements" | "maxTensorBytes">;
}

/**
 * How many windows each stack of each shard has: as few stacks as the device likes, as equal as
 * they can be.
 */
function stackSizes(
  { windows, seqLen, stackTokens = Infinity, shards = 1 }: Windows,
  { model, device: { productRows, productElements = Infinity, maxTensorBytes } }: Stacking,
): number[][] {
  const width = widestState(model);
  const fitting = Math.floor(maxTensorBytes / (4 * width * seqLen));
  const wanted = Math.ceil(Math.min(productRows, productElements / width) / seqLen);
  const most = Math.max(1, Math.min(fitting, wanted, Math.floor(stackTokens / seqLen)));
  return shares(windows, shards).map((own) => shares(own, Math.ceil(own / most)));
}

/** A number of things in parts that are as equal as they can be. */
function shares(all: number, parts: number): number[] {
  return Array.from(
    { length: parts },
    (_, i) => Math.floor(all / parts) + (i < all % parts ? 1 : 0),
  );
}

/** Floats per token of the widest input or output of a block's matrices. */
function widestState(model: Model): number {
  return graphsOf(model).flatMap(({ matrices }) => matrices)
    .reduce((most, { rows, columns }) => Math.max(most, rows, columns), model.hiddenSize);
}

/** Tokens of the largest stack. */
export function stackTokens(windows: Windows, stacking: Stacking): number {
  return Math.max(0, ...stackSizes(windows, stacking).flat()) * windows.seqLen;
}

/** Tokens of each stack, and how many of the stacks stay in memory, from the first on. */
export interface KeptStacks {
  readonly rows: readonly number[];
  readonly resident: number;
}

/** What is kept of the windows where, if each token has `perToken` floats. */
export function keepStacks(
  { stateBudget, ...windows }: WindowsRequest,
  perToken: number,
  stacking: Stacking,
): KeptStacks {
  const rows = stackSizes(windows, stacking).flat().map((size) => size * windows.seqLen);
  let held = 0;
  const beyond = rows.findIndex((tokens) => (held += tokens * perToken * 4) > stateBudget);
  return { rows, resident: beyond < 0 ? rows.length : beyond };
}

/** Tokens of the windows that do not stay in memory, where each has `perToken` floats. */
export function spilledTokens(
  walk: WindowsRequest,
  perToken: number,
  stacking: Stacking,
): number {
  const { rows, resident } = keepStacks(walk, perToken, stacking);
  return sum(rows.slice(resident), (tokens) => tokens);
}

/** Windows that are stacked as a plan has them. */
export function stackedAs<T extends object>(
  input: T,
  { stackTokens, shards }: {
    readonly stackTokens?: number | undefined;
    readonly shards?: number | undefined;
  } = {},
): T {
  return {
    ...input,
    ...(stackTokens === undefined ? {} : { stackTokens }),
    ...(shards === undefined ? {} : { shards }),
  };
}

/** Windows to be stacked. */
interface Stacked extends Pick<WindowsRequest, "stackTokens" | "shards"> {
  readonly windows: readonly Uint32Array<ArrayBuffer>[];
}

/** The tokens of each stack. */
export function stackWindows(windows: Stacked, stacking: Stacking): Uint32Array<ArrayBuffer>[] {
  return shardWindows(windows, stacking).flat();
}

/** The tokens of each stack of each shard. */
export function shardWindows(
  { windows, stackTokens, shards }: Stacked,
  stacking: Stacking,
): Uint32Array<ArrayBuffer>[][] {
  const [{ length: seqLen }] = windows as [Uint32Array];
  const how = stackedAs({ windows: windows.length, seqLen }, { stackTokens, shards });
  let first = 0;
  return stackSizes(how, stacking).map((own) =>
    own.map((size) => {
      const ids = new Uint32Array(size * seqLen);
      windows.slice(first, first += size).forEach((window, i) => ids.set(window, i * seqLen));
      return ids;
    })
  );
}

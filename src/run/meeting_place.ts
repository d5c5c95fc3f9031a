/**
 * Where machines meet that share a plan, as a worker and whoever merges see it: what job it is,
 * what each unit came to, and who is at which. Doing a unit twice changes nothing, so that what is
 * told of who is at what only spares work. Implementations: a folder (work_folder.ts), a repository
 * of the Hub (meeting/).
 */
import type { PlannedFile } from "../plan/planned.ts";
import type { ShardFiles } from "./shard_files.ts";
import type { UnitWriter } from "./unit_writer.ts";
import type { StoredUnit, WorkJob } from "./work_job.ts";

/** Bytes of a file of the output, as a unit made them. */
export interface UnitPiece {
  readonly file: string;
  readonly begin: number;
  readonly bytes: Uint8Array;
}

/** Which worker of how many, from 0. */
export interface Share {
  readonly index: number;
  readonly count: number;
}

/** See the head of this file. */
export interface MeetingPlace {
  /** As a command line names it. */
  readonly path: string;
  readonly job: WorkJob;
  /** The same place, where workers can do a block together in it. */
  readonly together: ShardPlace | undefined;
  /** Units that are not done, by their number. */
  undone(): Promise<number[]>;
  /**
   * The record of a unit; undefined where it is not done.
   *
   * @throws {RequestError} what is there is not of this job.
   */
  done(index: number): Promise<StoredUnit | undefined>;
  /** Who is at which of the units that are not done, in words, as far as it is told. */
  holders(): Promise<ReadonlyMap<number, string>>;
  /**
   * What a worker is to go through, a set of units after another: its share, then what others
   * leave. Asked for the next one when the one before is done with; ends when nothing is left to do
   * here.
   */
  turns(share: Share): AsyncIterable<readonly number[]>;
  /** Take a unit until the lease is disposed of; undefined where another worker is at it. */
  lease(index: number): Promise<AsyncDisposable | undefined>;
  /** Where a unit's bytes are gathered, `size` of them without the heads of files. */
  gather(
    index: number,
    planned: { readonly files: readonly PlannedFile[]; readonly size: number },
  ): Promise<UnitWriter>;
  /**
   * The pieces of a unit, one after another.
   *
   * @throws {RequestError} bytes are not those that were written.
   */
  pieces(index: number, unit: StoredUnit): AsyncIterable<UnitPiece>;
  /** Remove what workers have left that is not of units, once all are done. */
  sweep(): Promise<void>;
}

/** A place in which workers exchange much, and often: see in_shards.ts and on_float.ts. */
export interface ShardPlace extends MeetingPlace {
  /** What they exchange. */
  readonly shards: ShardFiles;
  /** Take a unit, or something else by its name; see `MeetingPlace.lease`. */
  lease(what: number | string): Promise<AsyncDisposable | undefined>;
  /** Whether some worker has it. */
  isLeased(what: number | string): Promise<boolean>;
}

/** What workers exchange of windows that stand before a block. */
export const BEFORE = "before";

/** Where a worker is, and which it is. */
export interface Place extends Share {
  readonly folder: ShardPlace;
  readonly signal: AbortSignal | undefined;
}

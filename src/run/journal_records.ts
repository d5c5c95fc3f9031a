/** What the journal of a run says: of what run it is, and what each save holds. */
import type { Distribution } from "../metrics/distribution.ts";
import type { TensorReport, Warning } from "../report.ts";
import type { CarryFile } from "../sink.ts";
import type { Unchecked } from "../source.ts";
import type { Ingredients } from "./key.ts";
import type { StoredPiece } from "./output.ts";

/** The journal's first record: of what run it is. */
export interface JournalHead {
  readonly journal: 1;
  readonly key: string;
  readonly ingredients: Ingredients;
  /** As others can repeat it. */
  readonly command: string | null;
  readonly units: readonly string[];
  readonly bytes: number;
}

/** A record for each save: units that were finished since the one before, and the carry then. */
export interface JournalSave {
  readonly at: string;
  readonly units: readonly FinishedUnit[];
  readonly carry: CarryFile | null;
  /**
   * Bytes of the source that the units so far were made of, and that were not yet compared with the
   * hashes of its files; absent where nothing is to be compared.
   */
  readonly unchecked?: readonly Unchecked[];
}

/**
 * A record that takes all saves before it back: they were made of bytes that were damaged, or by a
 * device that computes wrongly.
 */
export interface JournalRetraction {
  readonly at: string;
  readonly retracted: string;
}

/** What came of a unit. */
export interface FinishedUnit {
  readonly name: string;
  readonly pieces: readonly StoredPiece[];
  readonly tensors: readonly TensorReport[];
  readonly distributions: readonly (readonly [name: string, distribution: Distribution])[];
  readonly warnings: readonly Warning[];
  /** Steps of windows that were counted by its end. */
  readonly windows: number;
}

/** What a journal says. */
export function readRecords(
  records: readonly unknown[],
): { readonly head: JournalHead; readonly saves: readonly JournalSave[] } | undefined {
  const [head, ...rest] = records as readonly [JournalHead?, ...object[]];
  // Others note there what is theirs.
  const retracted = rest.findLastIndex((record) => "retracted" in record);
  const saves = rest.slice(retracted + 1).filter((record): record is JournalSave =>
    "units" in record
  );
  return head?.journal === 1 ? { head, saves } : undefined;
}

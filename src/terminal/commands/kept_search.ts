/**
 * What a search for bits has measured: in a journal beside the output until that is whole, so that
 * the same command goes on after a stop and measures nothing twice. Each measurement is known by
 * the hash of all that it depends on; what is of others is of no account.
 */
import { resolve } from "node:path";
import type { LossKeeper } from "../../bits/sensitivities.ts";
import { RequestError, UnsupportedError } from "../../errors.ts";
import { disk } from "../../io/disk.ts";
import { readJournal } from "../../io/journal.ts";
import { SEARCH_SUFFIX } from "../../io/names.ts";
import { SpareJournal } from "../../io/spare_journal.ts";
import { isObject } from "../../json.ts";
import type { WindowScores } from "../../report/certificate.ts";
import { GoesOn } from "../faults.ts";
import { visible } from "../text.ts";

/** Losses of the next candidates of a measurement. */
interface LossRecord {
  readonly losses: string;
  readonly values: readonly number[];
}

/** What came of one recipe. */
interface TryRecord {
  readonly tried: string;
  readonly kl_divergence: readonly number[];
  readonly perplexity_increase: readonly number[];
}

/** See the head of this file. */
export class KeptSearch implements AsyncDisposable {
  readonly losses: LossKeeper;
  readonly #losses = new Map<string, number[]>();
  readonly #tries = new Map<string, WindowScores>();
  readonly #journal: SpareJournal;

  private constructor(journal: SpareJournal) {
    this.#journal = journal;
    for (const record of journal.records) this.#take(record);
    this.losses = {
      find: () => Promise.resolve(undefined),
      load: (of) => Promise.resolve(this.#losses.get(of) ?? []),
      save: (of, losses) => {
        const known = this.#losses.get(of)?.length ?? 0;
        return this.#keep({ losses: of, values: losses.slice(known) });
      },
    };
  }

  /**
   * Open the journal of an output.
   *
   * @param options.restart What it holds is not wanted.
   * @param options.tell Takes a line of what was found.
   * @throws {RequestError} it is damaged.
   */
  static async open(
    output: string,
    { restart, tell }: { readonly restart: boolean; readonly tell: (line: string) => void },
  ): Promise<KeptSearch> {
    const path = `${resolve(output)}${SEARCH_SUFFIX}`;
    let isThere = (await disk.lstat(path))?.kind === "file";
    if (isThere && restart) {
      await disk.remove(path);
      isThere = false;
    }
    const journal = await SpareJournal.open(disk, path, {
      known: isThere ? await readJournal(disk, path) : undefined,
      refused: ({ message }) =>
        tell(`${message} The search goes on; what it measures is not kept.`),
    });
    if (journal.records.length > 0) {
      tell(`what ${visible(path)} has of an earlier search is not measured again`);
    }
    return new KeptSearch(journal);
  }

  /** What came of a try, which is made unless it is known by its key. */
  async tried(key: string, measure: () => Promise<WindowScores>): Promise<WindowScores> {
    const known = this.#tries.get(key);
    if (known) return known;
    const scores = await measure();
    await this.#keep({
      tried: key,
      kl_divergence: [...scores.kl_divergence],
      perplexity_increase: [...scores.perplexity_increase],
    });
    return scores;
  }

  /** What stopped a search, where something is kept that it can be gone on with. */
  stopped(cause: unknown): unknown {
    // What a person asked for wrongly, or cannot be had, is to be asked for otherwise.
    const isAsked = cause instanceof RequestError || cause instanceof UnsupportedError;
    if (!this.#journal.isKept || isAsked) return cause;
    const losses = [...this.#losses.values()].reduce((sum, { length }) => sum + length, 0);
    const parts = [[losses, "loss", "losses"], [this.#tries.size, "try", "tries"]] as const;
    const known = parts.flatMap(([n, one, many]) => n > 0 ? `${n} ${n === 1 ? one : many}` : []);
    if (known.length === 0) return cause;
    return new GoesOn(`${known.join(" and ")} that were measured`, { cause });
  }

  #take(record: unknown): void {
    if (isLosses(record)) {
      const { losses, values } = record;
      this.#losses.getOrInsertComputed(losses, () => []).push(...values);
    } else if (isTry(record)) {
      const { tried, kl_divergence, perplexity_increase } = record;
      this.#tries.set(tried, {
        kl_divergence: Float64Array.from(kl_divergence),
        perplexity_increase: Float64Array.from(perplexity_increase),
      });
    }
  }

  #keep(record: LossRecord | TryRecord): Promise<void> {
    this.#take(record);
    return this.#journal.append(record);
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#journal[Symbol.asyncDispose]();
  }
}

function isNumbers(value: unknown): value is readonly number[] {
  return Array.isArray(value) && value.every((one) => typeof one === "number");
}

function isLosses(record: unknown): record is LossRecord {
  return isObject(record) && typeof record.losses === "string" && isNumbers(record.values);
}

function isTry(record: unknown): record is TryRecord {
  return isObject(record) && typeof record.tried === "string" &&
    isNumbers(record.kl_divergence) && isNumbers(record.perplexity_increase);
}

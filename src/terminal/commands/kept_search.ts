/**
 * What a search for bits has measured: in a journal beside the output until that is whole, so that
 * the same command goes on after a stop and measures nothing twice. Each measurement is known by
 * the hash of all that it depends on; what is of others is of no account.
 */
import { dirname, resolve } from "node:path";
import type { LossKeeper } from "../../bits/sensitivities.ts";
import { RequestError, SpaceError, UnsupportedError } from "../../errors.ts";
import { disk } from "../../io/disk.ts";
import { type Journal, openJournal, readJournal } from "../../io/journal.ts";
import { SEARCH_SUFFIX } from "../../io/names.ts";
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
  readonly #path: string;
  readonly #tell: (line: string) => void;
  readonly #losses = new Map<string, number[]>();
  readonly #tries = new Map<string, WindowScores>();
  /** Undefined where there is no file yet. */
  #journal: Journal | undefined;
  /** The disk has no room for it. */
  #full = false;

  private constructor(
    path: string,
    { journal, tell }: {
      readonly journal: Journal | undefined;
      readonly tell: (line: string) => void;
    },
  ) {
    this.#path = path;
    this.#journal = journal;
    this.#tell = tell;
    for (const record of journal?.records ?? []) this.#take(record);
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
    if ((await disk.lstat(path))?.kind !== "file") {
      return new KeptSearch(path, { journal: undefined, tell });
    }
    if (restart) {
      await disk.remove(path);
      return new KeptSearch(path, { journal: undefined, tell });
    }
    const journal = await openJournal(disk, path, await readJournal(disk, path));
    if (journal.records.length > 0) {
      tell(`what ${visible(path)} has of an earlier search is not measured again`);
    }
    return new KeptSearch(path, { journal, tell });
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
    if (!this.#journal || this.#full || isAsked) return cause;
    const losses = [...this.#losses.values()].reduce((sum, { length }) => sum + length, 0);
    const parts = [[losses, "loss", "losses"], [this.#tries.size, "try", "tries"]] as const;
    const known = parts.flatMap(([n, one, many]) => n > 0 ? `${n} ${n === 1 ? one : many}` : []);
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

  async #keep(record: LossRecord | TryRecord): Promise<void> {
    this.#take(record);
    if (this.#full) return;
    try {
      if (!this.#journal) {
        this.#journal = await openJournal(disk, this.#path);
        await disk.syncFolder(dirname(this.#path));
      }
      await this.#journal.append(record);
    } catch (error) {
      if (!(error instanceof SpaceError)) throw error;
      this.#full = true;
      this.#tell(`${error.message} The search goes on; what it measures is not kept.`);
    }
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const journal = this.#journal;
    this.#journal = undefined;
    await journal?.[Symbol.asyncDispose]();
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

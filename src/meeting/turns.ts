/**
 * What a worker does in a repository, one set of units after another: decided by claims.ts for what
 * is there, and committed together with what it has done before. Who has to wait for another's unit
 * does so here.
 */
import { quote } from "../errors.ts";
import type { Content } from "../publish/upload.ts";
import { FileBlob, textReader } from "../publish/file_blob.ts";
import type { Reporter } from "../report.ts";
import type { Share } from "../run/meeting_place.ts";
import {
  type Asker,
  type Claims,
  CLAIMS_FILE,
  claimsText,
  decide,
  type Decision,
  takenOver,
} from "./claims.ts";
import type { JobView } from "./job_view.ts";
import type { Outbox } from "./outbox.ts";
import { hasUnit } from "./unit_files.ts";

/**
 * Milliseconds between the commits of a worker, for each worker that there is: together they stay
 * below the 128 an hour that the Hub allows in a repository (braindecode/braindecode#947).
 */
const APART = 30_000;

/** Milliseconds that a unit is watched: at least, at most, and where none was done yet. */
const PATIENCE = { least: 10_000, most: 1_800_000, unknown: 300_000 };

/** Milliseconds between two looks at a unit that is watched, at most. */
const LOOKS = 30_000;

/** What a worker takes its turns with. */
export interface TurnsOptions {
  readonly view: JobView;
  readonly outbox: Outbox;
  readonly units: readonly string[];
  readonly report: Reporter;
  readonly signal: AbortSignal | undefined;
}

/** See the head of this file. */
export class Turns {
  readonly #view: JobView;
  readonly #outbox: Outbox;
  readonly #options: TurnsOptions;
  /** Of this process; its share comes before it. */
  #name = crypto.randomUUID().slice(0, 8);
  #worked = false;
  /** When the turn began, or the last unit of it was done; the most milliseconds between. */
  #mark = 0;
  #longest = 0;

  constructor(options: TurnsOptions) {
    this.#view = options.view;
    this.#outbox = options.outbox;
    this.#options = options;
  }

  /** See `MeetingPlace.turns`. */
  async *take({ index, count }: Share): AsyncGenerator<readonly number[]> {
    const name = this.#name = `${index}/${count} ${this.#name}`;
    this.#outbox.title = `Worker ${index}/${count}`;
    this.#outbox.apart = APART * count;
    for (;;) {
      const asker: Asker = { index, count, name, worked: this.#worked };
      const decision = await this.#settle((open, claims) => decide(open, claims, asker));
      if (decision.kind === "leave") return;
      const units = decision.kind === "take" ? decision.units : await this.#watch(decision.unit);
      this.#mark = this.#now();
      if (units.length > 0) yield units;
    }
  }

  /** Whether a unit is still this worker's, and not done. */
  async has(unit: number): Promise<boolean> {
    const { look, claims: { holders } } = await this.#view.lately();
    return holders.get(unit) === this.#name && !hasUnit(look, unit) && !this.#outbox.has(unit);
  }

  /** A unit was done. */
  did(): void {
    const now = this.#now();
    this.#longest = Math.max(this.#longest, now - this.#mark);
    this.#mark = now;
    this.#worked = true;
  }

  /** Decide what to do next, and commit that with what was done. */
  async #settle(
    choose: (open: readonly number[], claims: Claims) => Decision,
  ): Promise<Decision> {
    let decision: Decision = { kind: "leave" };
    await this.#outbox.settled();
    await this.#outbox.commit(async (look) => {
      const claims = await this.#view.claims(look);
      const open = this.#view.undone(look).filter((unit) => !this.#outbox.has(unit));
      decision = choose(open, claims);
      if (decision.kind === "leave") return new Map<string, Content>();
      // What units take alone is worth no commit.
      if (claimsText(decision.claims) === claimsText(claims)) return new Map<string, Content>();
      const slowest = Math.max(claims.slowest, this.#longest);
      const text = claimsText({ ...decision.claims, slowest });
      return new Map([[CLAIMS_FILE, new FileBlob(textReader(text))]]);
    });
    this.#view.forget();
    return decision;
  }

  /**
   * Wait for another's unit; it is taken over when nothing comes of it.
   *
   * @returns What is to be done of it.
   */
  async #watch(unit: number): Promise<readonly number[]> {
    const { report, signal, units } = this.#options;
    const { timing } = this.#view.repository;
    const { claims: { holders, slowest } } = await this.#view.now();
    const holder = holders.get(unit);
    const longest = Math.max(slowest, this.#longest);
    const patience = longest === 0
      ? PATIENCE.unknown
      : Math.min(PATIENCE.most, Math.max(PATIENCE.least, 2 * longest));
    report({
      type: "warning",
      code: "waiting",
      message: `Others are at all that is left: waiting ${Math.ceil(patience / 1000)} seconds ` +
        `at most for ${quote(units[unit]!)}, then doing it here.`,
    });
    for (const until = this.#now() + patience; this.#now() < until;) {
      await timing.wait(Math.min(patience / 4, LOOKS), signal);
      const { look, claims } = await this.#view.now();
      if (hasUnit(look, unit) || claims.holders.get(unit) !== holder) return [];
    }
    const decision = await this.#settle((open, claims) =>
      open.includes(unit) && claims.holders.get(unit) === holder
        ? { kind: "take", units: [unit], claims: takenOver(unit, open, claims, this.#name) }
        : { kind: "leave" }
    );
    return decision.kind === "take" ? decision.units : [];
  }

  #now(): number {
    return this.#view.repository.timing.now();
  }
}

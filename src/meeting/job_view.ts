/** What a repository says of its job now: which units are done, and who is at the others. */
import type { WorkJob } from "../run/work_job.ts";
import { type Claims, CLAIMS_FILE, parseClaims } from "./claims.ts";
import type { Look, SharedRepository } from "./repository.ts";
import { hasUnit } from "./unit_files.ts";

/** Milliseconds for which it is not looked again. */
const FRESH = 10_000;

/** A job as it is at a commit. */
export interface JobLook {
  readonly look: Look;
  readonly claims: Claims;
}

/** See the head of this file. */
export class JobView {
  readonly path: string;
  readonly repository: SharedRepository;
  readonly #units: readonly string[];
  #known: JobLook | undefined;
  #at = -Infinity;

  constructor(repository: SharedRepository, { units }: Pick<WorkJob, "units">) {
    this.path = `hf://${repository.id}`;
    this.repository = repository;
    this.#units = units;
  }

  /** What was seen last. */
  get seen(): JobLook | undefined {
    return this.#known;
  }

  /** What is there now. @throws {HubError} the Hub cannot be asked. */
  async now(): Promise<JobLook> {
    const look = await this.repository.look();
    this.#at = this.repository.timing.now();
    if (this.#known?.look.commit === look.commit) return this.#known;
    return this.#known = { look, claims: await this.claims(look) };
  }

  /** What was there a moment ago. @throws {HubError} the Hub cannot be asked. */
  async lately(): Promise<JobLook> {
    const age = this.repository.timing.now() - this.#at;
    return this.#known && age < FRESH ? this.#known : await this.now();
  }

  /** Not to rely on what was seen: it was changed here. */
  forget(): void {
    this.#at = -Infinity;
  }

  /** @throws {RequestError} they are of another version. */
  async claims({ files }: Look): Promise<Claims> {
    return parseClaims(await this.repository.text(files.get(CLAIMS_FILE)), this.path);
  }

  /** Units that are not done, by their number. */
  undone(look: Look): number[] {
    return [...this.#units.keys()].filter((unit) => !hasUnit(look, unit));
  }
}

/**
 * A repository of the Hub where machines meet that share a plan and nothing else. A unit is two
 * files as in a folder, which appear in one commit, and who came first stays; who is at which is
 * told as claims.ts has it:
 *
 *   job.json  claims.json  units/00007.bin  units/00007.json
 */
import { join } from "node:path";
import { quote, RequestError } from "../errors.ts";
import { type Disk, disk as machine } from "../io/disk.ts";
import type { PlannedFile } from "../plan/planned.ts";
import { FileBlob, textReader } from "../publish/file_blob.ts";
import { createRepo } from "../publish/repository.ts";
import type { Reporter } from "../report.ts";
import type { MeetingPlace, Share, UnitPiece } from "../run/meeting_place.ts";
import { UnitWriter } from "../run/unit_writer.ts";
import {
  bytesIn,
  JOB_FILE,
  nameOf,
  otherBytes,
  parseJob,
  parseUnit,
  type StoredUnit,
  type WorkJob,
} from "../run/work_job.ts";
import { JobView } from "./job_view.ts";
import { Outbox } from "./outbox.ts";
import { type Reaching, reachToWrite, repositoryOf } from "./reach.ts";
import type { SharedRepository } from "./repository.ts";
import { Turns } from "./turns.ts";
import { hasUnit, readPieces, unitPath } from "./unit_files.ts";

/** How to meet in a repository. */
export interface HubPlaceOptions extends Reaching {
  /** Where units wait to be sent: a folder of this process alone, and the caller's to remove. */
  readonly folder: string;
  /** Hears of long waits. */
  readonly report?: Reporter;
  readonly disk?: Disk;
}

/** See the head of this file. Disposing of it commits what was sent. */
export class HubPlace implements MeetingPlace, AsyncDisposable {
  readonly path: string;
  readonly job: WorkJob;
  /** Each exchange would be a commit. */
  readonly together = undefined;
  readonly #view: JobView;
  readonly #outbox: Outbox;
  readonly #turns: Turns;
  readonly #disk: Disk;
  readonly #folder: string;
  readonly #signal: AbortSignal | undefined;

  private constructor(repository: SharedRepository, job: WorkJob, options: HubPlaceOptions) {
    const { folder, signal, disk = machine, report = () => {} } = options;
    this.job = job;
    this.#disk = disk;
    this.#folder = folder;
    this.#signal = signal;
    this.#view = new JobView(repository, job);
    this.#outbox = new Outbox(repository, { disk, signal });
    const { units } = job;
    this.#turns = new Turns({ view: this.#view, outbox: this.#outbox, units, report, signal });
    this.path = this.#view.path;
  }

  /**
   * Make the repository of a job, private where there is none; or find that it is there already.
   *
   * @param name `hf://org/name`
   * @throws {RequestError} the name cannot be used, or something else is there.
   * @throws {HubError} there is no token, or it may not write there; or the Hub cannot be asked.
   */
  static async create(name: string, job: WorkJob, options: HubPlaceOptions): Promise<HubPlace> {
    const { repository, isThere } = await reachToWrite(name, withReport(options));
    if (!isThere) await createRepo(repository.asking(), "private");
    await repository.change("A job for workers", async (look) => {
      const text = await repository.text(look.files.get(JOB_FILE));
      if (text !== undefined) {
        if (parseJob(text, name).key === job.key) return new Map();
        throw new RequestError(
          `Cannot use ${quote(name)} to work in: another job is in it. Give another repository, ` +
            "or remove that one.",
        );
      }
      const others = [...look.files.keys()].filter((path) => path !== ".gitattributes");
      if (others.length > 0) {
        throw new RequestError(
          `Cannot use ${quote(name)} to work in: it has other files (${
            others.slice(0, 3).map(quote).join(", ")
          }). Give a new name.`,
        );
      }
      return new Map([[JOB_FILE, new FileBlob(textReader(JSON.stringify(job, null, 1)))]]);
    });
    return new HubPlace(repository, job, options);
  }

  /**
   * Open the repository of a job.
   *
   * @param name `hf://org/name`
   * @param writes Whether units will be done: then it is seen first that the token may write.
   * @throws {RequestError} there is no job, or it is of another version.
   * @throws {HubError} see `create`.
   */
  static async open(
    name: string,
    { writes, ...options }: HubPlaceOptions & { readonly writes: boolean },
  ): Promise<HubPlace> {
    const reaching = withReport(options);
    const repository = writes
      ? (await reachToWrite(name, reaching)).repository
      : repositoryOf(name, reaching);
    const { files } = await repository.look();
    const job = parseJob(await repository.text(files.get(JOB_FILE)), name);
    return new HubPlace(repository, job, options);
  }

  /** Commits that were made here, and bytes of units that were sent. */
  get sent(): { readonly commits: number; readonly bytes: number } {
    return { commits: this.#view.repository.commits, bytes: this.#outbox.bytes };
  }

  /** As it was last seen, once this is to end. */
  async undone(): Promise<number[]> {
    if (!this.#signal?.aborted) return this.#view.undone((await this.#view.now()).look);
    const { seen } = this.#view;
    return (seen ? this.#view.undone(seen.look) : [...this.job.units.keys()])
      .filter((unit) => !this.#outbox.has(unit));
  }

  async holders(): Promise<ReadonlyMap<number, string>> {
    const { look, claims: { holders } } = await this.#view.now();
    return new Map([...holders].filter(([unit]) => !hasUnit(look, unit)));
  }

  async done(index: number): Promise<StoredUnit | undefined> {
    const { look } = await this.#view.lately();
    if (!hasUnit(look, index)) return undefined;
    const text = await this.#view.repository.text(look.files.get(unitPath(index, "json")));
    const unit = parseUnit(text!, this.job, this.#pathOf(index, "json"));
    if (look.files.get(unitPath(index, "bin"))!.size === bytesIn(unit)) return unit;
    throw otherBytes(this.#pathOf(index, "bin"));
  }

  turns(share: Share): AsyncGenerator<readonly number[]> {
    return this.#turns.take(share);
  }

  /** Undefined, too, where it was taken by another meanwhile, or is done. */
  async lease(index: number): Promise<AsyncDisposable | undefined> {
    if (!await this.#turns.has(index)) return undefined;
    return { [Symbol.asyncDispose]: () => Promise.resolve() };
  }

  async gather(
    index: number,
    planned: { readonly files: readonly PlannedFile[]; readonly size: number },
  ): Promise<UnitWriter> {
    const path = join(this.#folder, nameOf(index));
    return await UnitWriter.create({
      ...planned,
      disk: this.#disk,
      path,
      store: async (unit) => {
        await this.#outbox.add(index, path, unit);
        this.#turns.did();
      },
    });
  }

  async *pieces(index: number, unit: StoredUnit): AsyncGenerator<UnitPiece> {
    const { look } = await this.#view.lately();
    const path = this.#pathOf(index, "bin");
    const file = look.files.get(unitPath(index, "bin"));
    if (!file) throw otherBytes(path);
    yield* readPieces(this.#view.repository.client, file, { unit, path, signal: this.#signal });
  }

  /** Nothing is left of workers that were killed. */
  sweep(): Promise<void> {
    return Promise.resolve();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#outbox[Symbol.asyncDispose]();
  }

  #pathOf(index: number, kind: "bin" | "json"): string {
    return `${this.path}/${unitPath(index, kind)}`;
  }
}

function withReport({ hub, report, signal }: HubPlaceOptions): Reaching {
  return { hub: { ...hub, ...(report ? { report } : {}) }, signal };
}

/**
 * What of a batch was done before, as a file beside its outputs: of each job a key of all that its
 * output depends on, noted when it begins and when it is done. An output that is there, of a job
 * that was begun with the same key, is whole: the process was killed before it could note that.
 */
import { join, resolve } from "node:path";
import { quote, RequestError } from "../errors.ts";
import { disk, makeFolders } from "../io/disk.ts";
import { putWhole } from "../io/whole_files.ts";
import { isObject, parseObject } from "../json.ts";
import type { Host } from "./command.ts";

const FILE = "batch.json";

/** What a job's output depends on, as hashes. */
export interface JobKey {
  /** Its words, and the version that took them. */
  readonly words: string;
  /** The model, where it is in a folder that is there. */
  readonly model: string | undefined;
}

function textOf({ words, model }: JobKey): string {
  return model === undefined ? words : `${words}-${model}`;
}

/** See the head of this file. */
export class BatchState {
  readonly #folder: string;
  readonly #done: Map<string, string>;
  readonly #begun: Map<string, string>;
  #unsaved = false;

  private constructor(
    folder: string,
    { done, begun }: {
      readonly done: Map<string, string>;
      readonly begun: Map<string, string>;
    },
  ) {
    this.#folder = folder;
    this.#done = done;
    this.#begun = begun;
  }

  /**
   * Read what is known of a batch whose outputs are in a folder; nothing where it is new.
   *
   * @throws {RequestError} the file is not what a batch of this version wrote.
   */
  static async read(folder: string, host: Host): Promise<BatchState> {
    const path = join(folder, FILE);
    const text = await host.readTextIfAny(path);
    if (text === undefined) {
      return new BatchState(folder, { done: new Map(), begun: new Map() });
    }
    const { version, jobs, begun = {} } = parseObject(text) ?? {};
    if (version !== 1 || !isObject(jobs) || !isObject(begun)) {
      throw new RequestError(
        `Cannot go on with the batch: ${quote(path)} is not what a batch of this version wrote. ` +
          "Give another `output`, or remove that file.",
      );
    }
    const keys = (value: object) =>
      new Map(Object.entries(value).map(([name, key]) => [name, String(key)]));
    return new BatchState(folder, { done: keys(jobs), begun: keys(begun) });
  }

  /** Whether a job was done, or begun, with this key; and of its model, which key that had. */
  knows(
    name: string,
    { words }: JobKey,
  ): { readonly state: "done" | "begun"; readonly model: string | undefined } | undefined {
    for (const [state, keys] of [["done", this.#done], ["begun", this.#begun]] as const) {
      const [known, model] = keys.get(name)?.split("-") ?? [];
      if (known === words) return { state, model };
    }
    return undefined;
  }

  /** A job begins whose outputs are not there. */
  async begin(name: string, key: JobKey): Promise<void> {
    this.#begun.set(name, textOf(key));
    await using undo = new AsyncDisposableStack();
    await makeFolders(disk, resolve(this.#folder), undo);
    await this.#write();
  }

  /** A job is done. */
  async finish(name: string, key: JobKey): Promise<void> {
    this.#begun.delete(name);
    this.#done.set(name, textOf(key));
    await this.#write();
  }

  /** A job failed: its output is not whole, or is not all that was asked for. Saved later. */
  fail(name: string): void {
    this.#unsaved = this.#begun.delete(name) || this.#unsaved;
  }

  /** Save what was noted without that. */
  async save(): Promise<void> {
    if (this.#unsaved) await this.#write();
  }

  async #write(): Promise<void> {
    const [jobs, begun] = [this.#done, this.#begun].map((keys) => Object.fromEntries(keys));
    const text = `${JSON.stringify({ version: 1, jobs, begun }, null, 1)}\n`;
    await putWhole(disk, join(this.#folder, FILE), text);
    this.#unsaved = false;
  }
}

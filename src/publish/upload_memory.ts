/**
 * What is remembered of uploads for a run that goes on: in the journal beside the output, so that
 * no part that storage has taken is sent twice, whatever stopped the process. The addresses of
 * parts are kept as well, for storage knows an upload by them; they are good for one file and for
 * hours, and nobody else may enter the folder of the journal.
 */
import { isObject } from "../json.ts";
import type { Resumption } from "../sink.ts";
import type { Addresses, LargeObject } from "./lfs_batch.ts";

/** An upload in parts that was begun. */
export interface BegunUpload {
  readonly addresses: Addresses;
  /** ETags of the parts that storage has, by their index. */
  readonly etags: ReadonlyMap<number, string>;
}

/** Remembers uploads. */
export interface UploadMemory {
  /** What was begun of an object, and not forgotten. */
  find(oid: string): BegunUpload | undefined;
  /** An upload in parts begins; what was known of the object is forgotten. */
  began(oid: string, addresses: Addresses): Promise<void>;
  /** Storage has a part. */
  took(oid: string, part: number, etag: string): Promise<void>;
}

/** A file that the Hub has. */
export interface TakenFile extends LargeObject {
  readonly path: string;
  /** Whether it is there alone, to make room here. */
  readonly freed: boolean;
}

/** A line of the journal about an upload. */
type UploadRecord =
  & {
    /** Where it goes: what was sent elsewhere says nothing. */
    readonly to: string;
    readonly oid: string;
  }
  & (
    | { readonly upload: "began"; readonly addresses: Addresses }
    | { readonly upload: "part"; readonly part: number; readonly etag: string }
    | {
      readonly upload: "taken";
      readonly path: string;
      readonly size: number;
      readonly freed: boolean;
    }
  );

/** The uploads of one output to one repository. */
export class JournaledUploads implements UploadMemory {
  readonly #journal: Pick<Resumption, "append"> | undefined;
  readonly #to: string;
  readonly #begun = new Map<
    string,
    { readonly addresses: Addresses; readonly etags: Map<number, string> }
  >();
  /** Files that the Hub has, by path. */
  readonly taken: Map<string, TakenFile> = new Map();

  /**
   * @param journal Absent where no run goes on with this one.
   * @param to The repository with the Hub's address.
   */
  constructor(journal: Pick<Resumption, "append" | "records"> | undefined, to: string) {
    this.#journal = journal;
    this.#to = to;
    for (const record of journal?.records ?? []) if (isUploadRecord(record)) this.#learn(record);
  }

  find(oid: string): BegunUpload | undefined {
    return this.#begun.get(oid);
  }

  began(oid: string, addresses: Addresses): Promise<void> {
    return this.#note({ upload: "began", to: this.#to, oid, addresses });
  }

  took(oid: string, part: number, etag: string): Promise<void> {
    return this.#note({ upload: "part", to: this.#to, oid, part, etag });
  }

  /** The Hub has a file. */
  finished(file: TakenFile): Promise<void> {
    return this.#note({ upload: "taken", to: this.#to, ...file });
  }

  async #note(record: UploadRecord): Promise<void> {
    this.#learn(record);
    await this.#journal?.append(record);
  }

  #learn(record: UploadRecord): void {
    const { oid, to } = record;
    if (to !== this.#to) return;
    switch (record.upload) {
      case "began":
        this.#begun.set(oid, { addresses: record.addresses, etags: new Map() });
        return;
      case "part":
        this.#begun.get(oid)?.etags.set(record.part, record.etag);
        return;
      case "taken": {
        const { path, size, freed } = record;
        this.#begun.delete(oid);
        this.taken.set(path, { path, oid, size, freed });
      }
    }
  }
}

/** Whether a line of a journal is about an upload; nobody else writes there. */
function isUploadRecord(record: unknown): record is UploadRecord {
  return isObject(record) && typeof record.upload === "string";
}

/**
 * A repository of the fake Hub: commits, branches, pull requests, and what is large in it. Without
 * git: no history of trees is packed.
 */
import { type Content, contentFrom, type FileInput, hexHash, readAll } from "./content.ts";

/** Model or dataset: they differ in their addresses only. */
export type RepositoryType = "model" | "dataset";

/** What a person who made a repository may say of it. */
export interface RepositorySettings {
  private?: boolean;
  /** Whoever wants a file must have asked for access. */
  gated?: false | "auto" | "manual";
  /** People with access to a gated repository, beside its owners. */
  granted?: readonly string[];
  /** Shut by the Hub itself. */
  disabled?: boolean;
}

/** A file in a commit. */
export interface Entry {
  readonly path: string;
  readonly content: Content;
  /** Kept as a large file, a pointer being in git. */
  readonly large: boolean;
}

/** What the Hub says of a file. */
export interface EntryDescription {
  readonly type: "file";
  /** Of the blob in git: of the bytes, or of the pointer. */
  readonly oid: string;
  readonly size: number;
  readonly path: string;
  readonly lfs?: { readonly oid: string; readonly size: number; readonly pointerSize: number };
}

/** A state of a repository. */
export interface Commit {
  readonly sha: string;
  readonly title: string;
  readonly message: string;
  readonly author: string;
  readonly date: string;
  readonly parent: Commit | undefined;
  readonly files: ReadonlyMap<string, Entry>;
}

/** What is in a commit, and what it is called. */
export interface Change {
  /** Files to add or to replace. */
  readonly files?: Readonly<Record<string, FileInput>>;
  /** Paths to delete; one that ends with `/` is a folder. */
  readonly deleted?: readonly string[];
  /** `main` unless given; made when it is not there. */
  readonly branch?: string;
  readonly title?: string;
  readonly message?: string;
  readonly author?: string;
}

/**
 * Extensions that are large files whatever their size, as in the .gitattributes of a new
 * repository.
 */
const LARGE =
  /\.(7z|arrow|bin|bz2|ckpt|ftz|gguf|gz|h5|joblib|mlmodel|model|msgpack|npy|npz|onnx|ot|parquet|pb|pickle|pkl|pt|pth|rar|safetensors|tar|tflite|tgz|wasm|xz|zip|zst)$/;

/** Whether the Hub keeps a file as a large one. */
export function isLarge(path: string, size: number, threshold: number): boolean {
  return LARGE.test(path) || size > threshold;
}

/** A repository of the fake Hub. Tests may change it while a client is at work. */
export class Repository {
  readonly type: RepositoryType;
  /** `org/name`. It changes when the repository is renamed. */
  id: string;
  readonly settings: RepositorySettings;
  /** Large files that were uploaded or committed, by SHA-256. */
  readonly objects: Map<string, Content> = new Map();
  /** Ends of branches and pull requests: `main`, `refs/pr/1`. */
  readonly refs: Map<string, Commit> = new Map();
  readonly #commits: Map<string, Commit> = new Map();
  readonly #threshold: number;
  readonly #stop: AbortSignal;
  #indexed: Promise<void> = Promise.resolve();
  #pullRequests = 0;

  /**
   * @param id `org/name`. @param options largest size of a file that is kept in git, settings, and
   * what ends the hashing of files.
   */
  constructor(
    id: string,
    { type, threshold, settings, stop }: {
      readonly type: RepositoryType;
      readonly threshold: number;
      readonly settings: RepositorySettings;
      readonly stop: AbortSignal;
    },
  ) {
    this.#stop = stop;
    this.id = id;
    this.type = type;
    this.settings = settings;
    this.#threshold = threshold;
  }

  /** As it stands in addresses: `org/name`, `datasets/org/name`. */
  get place(): string {
    return this.type === "model" ? this.id : `${this.type}s/${this.id}`;
  }

  /** The last commit of a branch. */
  head(branch = "main"): Commit {
    const commit = this.refs.get(branch);
    if (!commit) throw new RangeError(`${this.place} has no branch "${branch}".`);
    return commit;
  }

  /** The commit that a branch, a pull request or a commit's own name means. */
  find(revision: string): Commit | undefined {
    const name = revision === "HEAD" ? "main" : revision.replace(/^refs\/heads\//, "");
    return this.refs.get(name) ?? this.#commits.get(name);
  }

  /** Commit what a test gives, as a push by somebody else would. */
  commit({ files = {}, deleted = [], ...about }: Change): Commit {
    const entries = Object.entries(files).map(([path, input]) => {
      const content = contentFrom(input, this.#stop);
      return { path, content, large: isLarge(path, content.size, this.#threshold) };
    });
    return this.add({ ...about, entries, deleted });
  }

  /** Commit files whose kind was settled already. */
  add(
    { entries, deleted, branch = "main", title = "Add files", message = "", author = "owner" }:
      & Omit<Change, "files">
      & { readonly entries: readonly Entry[]; readonly deleted: readonly string[] },
  ): Commit {
    const parent = this.refs.get(branch);
    const files = new Map(parent?.files);
    for (const path of deleted) {
      for (const known of [...files.keys()]) {
        if (known === path || path.endsWith("/") && known.startsWith(path)) files.delete(known);
      }
    }
    for (const entry of entries) files.set(entry.path, entry);
    const sorted = new Map([...files].sort(([a], [b]) => a < b ? -1 : 1));
    const count = this.#commits.size;
    const listing = [...sorted.values()].map(({ path, content }) => [path, content.fingerprint]);
    const commit: Commit = {
      sha: hexHash("sha1", JSON.stringify([this.place, parent?.sha, count, title, listing])),
      title,
      message,
      author,
      // A clock of its own: the same commits have the same names in every run.
      date: new Date(Date.UTC(2026, 0, 1) + 60_000 * count).toISOString(),
      parent,
      files: sorted,
    };
    this.#commits.set(commit.sha, commit);
    this.refs.set(branch, commit);
    // Files are hashed in the background, one after another; a fake that ends stops that.
    this.#indexed = this.#indexed.then(() => this.#index(entries)).catch((error) => {
      if (!this.#stop.aborted) throw error;
    });
    return commit;
  }

  /** Wait until every large file is hashed and among `objects`. */
  indexed(): Promise<void> {
    return this.#indexed;
  }

  async #index(entries: readonly Entry[]): Promise<void> {
    for (const { content, large } of entries) {
      if (large) this.objects.set(await content.sha256(), content);
    }
  }

  /** Open a pull request that begins at a branch's end. Returns its number. */
  openPullRequest(branch: string): number {
    this.#pullRequests++;
    this.refs.set(`refs/pr/${this.#pullRequests}`, this.head(branch));
    return this.#pullRequests;
  }
}

/** What the Hub says of a file. Waits for the hash of a large one. */
export async function describe({ path, content, large }: Entry): Promise<EntryDescription> {
  const { size } = content;
  if (!large) {
    const bytes = await readAll(content);
    return { type: "file", oid: gitOid(bytes), size, path };
  }
  const pointer = new TextEncoder().encode(await pointerText(content));
  const lfs = { oid: await content.sha256(), size, pointerSize: pointer.length };
  return { type: "file", oid: gitOid(pointer), size, path, lfs };
}

/** The name that git gives to a file. */
function gitOid(bytes: Uint8Array): string {
  return hexHash("sha1", `blob ${bytes.length}\0`, bytes);
}

/** What is in git for a large file. */
export async function pointerText(content: Content): Promise<string> {
  return `version https://git-lfs.github.com/spec/v1\noid sha256:${await content
    .sha256()}\nsize ${content.size}\n`;
}

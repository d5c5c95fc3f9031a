/**
 * A Hugging Face Hub on loopback, for tests and for people: reading, uploading and committing as
 * the Hub has them, models and datasets, private, gated, renamed; on two origins, as the Hub and
 * its storage are; and with faults to switch on. Not there: Xet, spaces, buckets, search, tags.
 *
 *     await using hub = await startFakeHub({ repos: { "org/name": folder } });
 *     hub.faults.add({ kind: "cut", on: "storage", at: 5000, how: "reset" });
 */
import { join } from "node:path";
import type { TokenInfo } from "./access.ts";
import type { FileInput } from "./content.ts";
import { Faults } from "./faults.ts";
import { Limiter } from "./limiter.ts";
import { Repository, type RepositorySettings } from "./repository.ts";
import { Storage } from "./storage.ts";
import { route, splitPlace } from "./route.ts";
import { listen, type LogEntry } from "./wire.ts";

export type { FileInput, SyntheticFile } from "./content.ts";
export {
  type ActiveFault,
  changedJson,
  expiredUrl,
  type Fault,
  type FaultMatch,
  Faults,
  rateLimited,
} from "./faults.ts";
export type { Commit, Repository, RepositorySettings } from "./repository.ts";
export { syntheticCheckpoint, type SyntheticOptions } from "./synthetic.ts";
export type { Answer } from "./answer.ts";
export type { LogEntry } from "./wire.ts";
export type { TokenInfo } from "./access.ts";

/**
 * A token that may do everything: of `me`, who belongs to every namespace of the repositories
 * given.
 */
export const TOKEN = "hf_test";
/** A token of `me` that may read only. */
export const READ_TOKEN = "hf_test_read";
/** A token of `stranger`, who belongs nowhere and has access to nothing private or gated. */
export const STRANGER_TOKEN = "hf_test_stranger";

/**
 * A repository as a test gives it: a folder of this machine, files, or either with settings. A name
 * that was moved says where to.
 */
export type RepositoryInput =
  | string
  | Readonly<Record<string, FileInput>>
  | RepositorySettings & { readonly files: string | Readonly<Record<string, FileInput>> }
  | { readonly renamedTo: string };

/** How a fake Hub is. */
export interface FakeHubOptions {
  /**
   * By `org/name`, `datasets/org/name` or a legacy `name`. A repository with settings has its files
   * under `files`.
   */
  readonly repos?: Readonly<Record<string, RepositoryInput>>;
  /** Tokens beside, or instead of, the three that are always there. */
  readonly tokens?: Readonly<Record<string, TokenInfo>>;
  /**
   * Files over this size are large files: 10 000 000 bytes unless given. Some extensions always
   * are.
   */
  readonly largeFileBytes?: number;
  /** Entries of a tree in a page: 1000 unless given. */
  readonly pageSize?: number;
  /** Uploads over this size are in parts of it: 100 MB unless given. */
  readonly partBytes?: number;
  /** Seconds that an address of the storage is good for: 3600 unless given. */
  readonly urlSeconds?: number;
  /**
   * Requests allowed per five minutes and bucket; as many as the Hub allows a free account, but not
   * enforced, unless given.
   */
  readonly limits?: { readonly api?: number; readonly resolvers?: number };
  /** Ports: any free ones unless given. */
  readonly port?: number;
  readonly storagePort?: number;
}

/**
 * A fake Hub that runs. Disposing it closes every connection; it throws when the fake itself had a
 * bug.
 */
export interface FakeHub extends AsyncDisposable {
  /** What HF_ENDPOINT should be: `http://127.0.0.1:PORT`. */
  readonly endpoint: string;
  /** Where large files are: `http://localhost:PORT`. */
  readonly storage: string;
  /** Every request, in the order they came. */
  readonly log: LogEntry[];
  /** Tokens that came where none should: must be empty at the end of every test. */
  readonly violations: readonly string[];
  readonly faults: Faults;
  /** A repository, to change or to look at: `org/name`, `datasets/org/name`. */
  repo(place: string): Repository;
  /** Give a repository another name; the old one redirects from now on. */
  rename(from: string, to: string): void;
  /** Forget a repository. */
  remove(place: string): void;
  /** Make every address of the storage that was given out so far too old. */
  expireUrls(): void;
  /** Wait until all large files are hashed: listings wait for that, and 20 GB take a while. */
  hashed(): Promise<void>;
}

/** Start a fake Hub on loopback. */
export async function startFakeHub(options: FakeHubOptions = {}): Promise<FakeHub> {
  const { repos = {}, tokens = {}, largeFileBytes = 10_000_000 } = options;
  await using started = new AsyncDisposableStack();
  const ending = new AbortController();
  const stop = ending.signal;
  const repositories = new Map<string, Repository>();
  const renamed = new Map<string, string>();
  for (const [place, input] of Object.entries(repos)) {
    if (isRenamed(input)) renamed.set(place, input.renamedTo);
    else repositories.set(place, makeRepository(place, input, { threshold: largeFileBytes, stop }));
  }
  const orgs = [...new Set([...repositories.values()].map(({ id }) => id.split("/")[0]!))];
  const known = new Map<string, TokenInfo>(Object.entries({
    [TOKEN]: { user: "me", role: "write", orgs },
    [READ_TOKEN]: { user: "me", role: "read", orgs },
    [STRANGER_TOKEN]: { user: "stranger", role: "write" },
    ...tokens,
  }));
  const log: LogEntry[] = [], violations: string[] = [], bugs: unknown[] = [];
  const faults = new Faults();
  started.defer(() => {
    if (bugs.length > 0) throw new AggregateError(bugs, "The fake Hub itself failed.");
  });
  const storage = started.use(
    new Storage({
      repository: (place) => repositories.get(place),
      urlSeconds: options.urlSeconds ?? 3600,
      violations,
      stop,
    }),
  );
  const common = { faults, log, bugs, stop };
  const bucket = started.use(
    await listen({
      ...common,
      origin: "storage",
      port: options.storagePort ?? 0,
      answer: (visit) => storage.answer(visit),
    }),
  );
  // Another name than the Hub's, for clients that compare hosts without ports.
  storage.origin = `http://localhost:${bucket.port}`;
  let endpoint = "";
  const limiter = new Limiter(options.limits ?? {});
  const server = started.use(
    await listen({
      ...common,
      origin: "hub",
      port: options.port ?? 0,
      answer: async (visit) => {
        const parts = {
          endpoint,
          storage,
          repositories,
          stop,
          threshold: largeFileBytes,
          partBytes: options.partBytes ?? 100_000_000,
          pageSize: options.pageSize ?? 1000,
          tokens: known,
          renamed,
          faults,
          log,
        };
        return await limiter.limit(visit, () => route(visit, parts));
      },
    }),
  );
  endpoint = `http://127.0.0.1:${server.port}`;
  // Disposed of first: who waits for a hash or a pause stops waiting.
  started.defer(async () => {
    ending.abort(new Error("The fake Hub ends."));
    await Promise.all([...repositories.values()].map((repository) => repository.indexed()));
  });
  const running = started.move();
  function repo(place: string): Repository {
    const repository = repositories.get(place);
    if (!repository) throw new RangeError(`The fake Hub has no repository "${place}".`);
    return repository;
  }
  return {
    endpoint,
    storage: storage.origin,
    log,
    violations,
    faults,
    repo,
    rename(from, to) {
      const repository = repo(from);
      repositories.delete(from);
      repository.id = splitPlace(to).id;
      repositories.set(to, repository);
      renamed.set(from, to);
    },
    remove(place) {
      repositories.delete(place);
    },
    expireUrls: () => storage.expireUrls(),
    hashed: async () => {
      await Promise.all([...repositories.values()].map((repository) => repository.indexed()));
    },
    [Symbol.asyncDispose]: () => running.disposeAsync(),
  };
}

function isRenamed(input: RepositoryInput): input is { readonly renamedTo: string } {
  return typeof input === "object" && "renamedTo" in input;
}

/** Settings have `files`, which no repository has for a file. */
function hasSettings(
  input: RepositoryInput,
): input is RepositorySettings & { readonly files: string | Readonly<Record<string, FileInput>> } {
  return typeof input === "object" && "files" in input;
}

function makeRepository(
  place: string,
  input: Exclude<RepositoryInput, { readonly renamedTo: string }>,
  { threshold, stop }: { readonly threshold: number; readonly stop: AbortSignal },
): Repository {
  const { files: given, ...settings } = hasSettings(input) ? input : { files: input };
  const { type, id } = splitPlace(place);
  const repository = new Repository(id, { type, threshold, stop, settings: { ...settings } });
  const files = typeof given === "string"
    ? filesOf(given)
    : given as Readonly<Record<string, FileInput>>;
  repository.commit({ files, title: "initial commit" });
  return repository;
}

/**
 * Every file below a folder, by its path. Links are followed: a folder of the Hub's own cache is
 * made of them.
 */
function filesOf(folder: string, prefix = ""): Record<string, FileInput> {
  const files: Record<string, FileInput> = {};
  for (const { name } of Deno.readDirSync(join(folder, prefix))) {
    const path = prefix + name, whole = join(folder, path);
    if (Deno.statSync(whole).isFile) files[path] = { path: whole };
    else if (name !== ".git") Object.assign(files, filesOf(folder, `${path}/`));
  }
  return files;
}

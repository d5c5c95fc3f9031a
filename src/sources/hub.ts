/**
 * A checkpoint on the Hugging Face Hub: the revision pinned to a commit, headers read by range,
 * weight files fetched ahead into a bounded folder and checked against the repository's hashes.
 * Opened by the same rules as a folder; the user's cache is read where it has a file.
 */
import { CheckpointError, HubError, quote, RequestError } from "../errors.ts";
import type { HubClient } from "../hub/client.ts";
import { formatRepoSpec, parseRepoSpec, type RepoSpec } from "../hub/repo_spec.ts";
import { type Disk, disk as machine } from "../io/disk.ts";
import type { Reporter } from "../report.ts";
import type { TensorSource } from "../source.ts";
import { openFolder, type ReadOptions } from "./checkpoint.ts";
import { readingDoubles } from "./doubles.ts";
import { AHEAD, NetworkThread } from "../hub/network_thread.ts";
import { BufferPool } from "../hub/buffer_pool.ts";
import { HashThread } from "./hash_thread.ts";
import { findCached, findSnapshot } from "./hub_cache.ts";
import { BATCH, WINDOW } from "./hub_copy.ts";
import { hubFolder, isWeightFile, safeFiles } from "./hub_folder.ts";
import { Staging } from "./hub_staging.ts";

/** How to open a checkpoint on the Hub. */
export interface OpenHubOptions extends ReadOptions {
  readonly client: HubClient;
  /**
   * Where Python programs keep what they downloaded (`hubSettings().cacheFolder`); read, never
   * written.
   */
  readonly cacheFolder?: string | undefined;
  /**
   * A folder for weight files on their way; made if it is not there, and left as it was found.
   * Without it, tensors are read by range.
   */
  readonly stagingFolder?: string | undefined;
  /** Bytes that the staging folder may hold at any time; 0 unless given. */
  readonly maxDisk?: number;
  /** Weight files fetched at once; 2 unless given. */
  readonly downloads?: number;
  /** Bytes of a span from which on the network's own thread reads it; 8 MB unless given. */
  readonly largeSpan?: number;
  /** Ends what is under way: opening and reading throw its reason. */
  readonly signal?: AbortSignal | undefined;
  readonly report?: Reporter;
  readonly disk?: Disk;
}

/** Memory of one download: its batches, those that are arriving, and what its connection holds. */
const BUFFER_BYTES = (WINDOW + AHEAD) * BATCH + 4e6;

const LARGE_SPAN = 8e6;

/**
 * Open `org/name` or `org/name@revision`.
 *
 * @throws {RequestError} the spec names no repository.
 * @throws {HubError} the repository or the Hub cannot be reached, or may not be read.
 * @throws {CheckpointError} what is there breaks a rule of checkpoints.
 */
export async function openHub(
  spec: string | RepoSpec,
  {
    client,
    cacheFolder,
    stagingFolder,
    maxDisk = 0,
    downloads = 2,
    largeSpan = LARGE_SPAN,
    signal: stop,
    ...options
  }: OpenHubOptions,
): Promise<TensorSource> {
  const { report = () => {}, disk = machine, ...limits } = options;
  const asAsked = limits.asStored ? <S>(source: S) => source : readingDoubles;
  const repo = typeof spec === "string" ? parseRepoSpec(spec) : spec;
  if (!repo) {
    throw new RequestError(
      `Cannot open ${quote(String(spec))}: it is no name of a model on the Hub. ` +
        `Write it as org/name or org/name@revision.`,
    );
  }
  const label = formatRepoSpec(repo);
  if (client.offline) return asAsked(await openOffline(repo, { disk, cacheFolder, limits }));

  await using opened = new AsyncDisposableStack();
  const abort = new AbortController();
  const { signal } = abort;
  const end = () => abort.abort(stop!.reason);
  stop?.throwIfAborted();
  stop?.addEventListener("abort", end);
  opened.defer(() => stop?.removeEventListener("abort", end));
  const pinned = await client.pin(repo, { signal });
  const files = safeFiles(await client.files(pinned, { signal }));
  const cached = await findCached(files.values(), { disk, cacheFolder });
  const folder = maxDisk > 0 ? stagingFolder : undefined;
  if (folder !== undefined && !await disk.stat(folder)) {
    await disk.makeFolder(folder, { secret: true });
    opened.defer(() => disk.remove(folder));
  }
  const hashes = opened.use(new HashThread());
  const network = opened.use(new NetworkThread());
  const buffers = new BufferPool(BATCH);
  const context = { client, disk, cached, report, signal, hashes, network, largeSpan, buffers };
  const staging = opened.use(
    new Staging({
      ...context,
      files: [...files.values()].filter(({ path }) => isWeightFile(path)),
      folder,
      maxDisk,
      downloads,
      label: quote(label),
    }),
  );
  opened.defer(() => abort.abort(new Error("The checkpoint was closed.")));
  const view = hubFolder(label, files, {
    ...context,
    readHead: (file, span) => staging.readHead(file, span),
  });
  const source = opened.use(await openFolder(view, label, { label, ...limits }));
  staging.forgetHeads();
  const open = opened.move();
  return asAsked({
    ...source,
    label,
    bufferBytes: downloads * BUFFER_BYTES,
    id: `${pinned.id}@${pinned.commit}`,
    async read(name, rows, into) {
      const { file, begin, end } = source.locate(name, rows);
      return await staging.read(file, { begin, end }, into);
    },
    schedule(order) {
      staging.schedule(order.map(({ name, rows }) => source.locate(name, rows)));
    },
    verified: () => staging.verified(),
    unchecked: () => staging.unchecked(),
    recheck: (given) => staging.recheck(given),
    [Symbol.asyncDispose]: () => open.disposeAsync(),
  });
}

/** Without a network: what the user's cache has, as the folder that it is. */
async function openOffline(
  repo: RepoSpec,
  { disk, cacheFolder, limits }: {
    readonly disk: Disk;
    readonly cacheFolder: string | undefined;
    readonly limits: ReadOptions;
  },
): Promise<TensorSource> {
  const label = formatRepoSpec(repo);
  const refuse = (found: string, cause?: unknown): never => {
    throw new HubError(
      `Cannot open ${
        quote(label)
      } on the Hub: the network is switched off by HF_HUB_OFFLINE, and ` +
        `${found}. Unset it, or download the model first.`,
      { kind: "offline", cause },
    );
  };
  const found = await findSnapshot(repo, { disk, cacheFolder });
  if (!found) {
    return refuse(
      cacheFolder === undefined
        ? "there is no cache folder"
        : `the cache ${quote(cacheFolder)} does not have it`,
    );
  }
  try {
    const source = await openFolder(disk, found.folder, { label, ...limits });
    return { ...source, id: `${repo.id}@${found.commit}` };
  } catch (cause) {
    // A download that was never finished looks like a checkpoint that lacks files.
    if (!(cause instanceof CheckpointError)) throw cause;
    return refuse(`what the cache has is not whole (${cause.message})`, cause);
  }
}

/**
 * Publishing a checkpoint on the Hub: verify it, look at what is there, send its files, commit
 * once, look again. Nothing is ever deleted.
 */
import type { Backend, DeviceLimits } from "./backend.ts";
import { Alongside, type AlongsideOptions } from "./publish/alongside.ts";
import { readElsewhere } from "./publish/elsewhere.ts";
import { factsOfCheckpoint } from "./publish/card_facts.ts";
import { CheckpointError, quote } from "./errors.ts";
import { HubClient } from "./hub/client.ts";
import type { RepoSpec } from "./hub/repo_spec.ts";
import { type Disk, disk as machine } from "./io/disk.ts";
import { type CardFacts, modelCard } from "./publish/model_card.ts";
import { listFolder } from "./publish/folder.ts";
import { hashBlob } from "./publish/hash_blob.ts";
import type { LargeObject } from "./publish/lfs_batch.ts";
import { FileBlob, textReader } from "./publish/file_blob.ts";
import {
  checkPublish,
  type Destination,
  type PlanOptions,
  planPublish,
  type PublishPlan,
} from "./publish/plan.ts";
import { firstDifference, readFiles, readHead } from "./publish/remote.ts";
import { createBranch, createRepo } from "./publish/repository.ts";
import { SENDING_BYTES, SENT_AT_ONCE } from "./limits.ts";
import { Sender } from "./publish/sender.ts";
import type { SentFile } from "./publish/sent_file.ts";
import { KeptUploads } from "./publish/kept_uploads.ts";
import { type Content, uploadFiles } from "./publish/upload.ts";
import { parseObject } from "./json.ts";
import type { Verdict } from "./format.ts";
import { RECORD_FILE } from "./io/names.ts";
import { runtimeBytes } from "./plan/memory.ts";
import { sha256 } from "./io/digest.ts";
import { picturesOf } from "./report/pictures.ts";
import type { RunRecord } from "./report/record.ts";
import { readRecord } from "./report/record_file.ts";
import type { TensorSource } from "./source.ts";
import { openCheckpoint } from "./sources/checkpoint.ts";
import { verify, type VerifyReport } from "./verify.ts";

export { Alongside, checkPublish, planPublish, readElsewhere, SENT_AT_ONCE };
export type { AlongsideOptions, Destination, PlanOptions, PublishPlan };

/** What happens while a checkpoint is published. */
export type PublishEvent =
  /** Bytes of a large file that were hashed, of all its bytes. */
  | {
    readonly type: "hashing";
    readonly path: string;
    readonly done: number;
    readonly total: number;
  }
  /**
   * Bytes of all files that the Hub has or that are on their way. Less than before when a try has
   * failed.
   */
  | { readonly type: "uploading"; readonly done: number; readonly total: number }
  | { readonly type: "committing" }
  | { readonly type: "published"; readonly report: PublishReport };

/** How to publish. */
export interface PublishOptions extends PlanOptions {
  /** What `planPublish` found for the same folder and repository; made anew when absent. */
  readonly plan?: PublishPlan;
  /** A verification of the folder as it is; without it, `backend` verifies. */
  readonly verified?: VerifyReport;
  readonly backend?: Backend;
  /** What the checkpoint was made of, for a stricter verification. */
  readonly source?: TensorSource;
  /** Hashes of files, by path, where they are known: those are not hashed again. */
  readonly known?: KnownFiles;
  /** Whether the repository was made for this, when its weights were sent before. */
  readonly created?: boolean;
  /** The first line of the commit. */
  readonly title?: string;
  /**
   * Remember, in `<folder>.sluice-upload`, which parts of files the Hub has, until all is committed:
   * publishing that was stopped goes on from there.
   */
  readonly resume?: boolean;
  readonly report?: (event: PublishEvent) => void;
}

/** What was published. */
export interface PublishReport {
  /** `org/name` */
  readonly repo: string;
  readonly url: string;
  readonly branch: string;
  readonly commit: string;
  readonly commitUrl: string;
  readonly pullRequestUrl: string | undefined;
  readonly created: boolean;
  /** Everything was there already, just so; no commit was made. */
  readonly unchanged: boolean;
  readonly files: readonly SentFile[];
  readonly bytes: number;
}

/**
 * Publish a checkpoint's folder.
 *
 * @throws {RequestError} see `planPublish`.
 * @throws {CheckpointError} it does not verify, or changed since.
 * @throws {HubError} the Hub refuses it or could not be reached; nothing of it can be seen there
 * then, but perhaps an empty repository.
 */
export async function publish(
  folder: string,
  name: string,
  options: PublishOptions,
): Promise<PublishReport> {
  const { hub, signal, report = () => {}, disk = machine } = options;
  signal?.throwIfAborted();
  const { plan, known } = options.plan
    ? { plan: options.plan, known: options.known }
    : await planVerified(folder, name, options);
  if (plan.folder !== folder || plan.repo !== name) {
    throw new RangeError(
      `Cannot publish ${quote(folder)} to ${quote(name)}: the plan is for another.`,
    );
  }
  const sender = new Sender(hub), client = new HubClient(hub);
  const repo: RepoSpec = { kind: "model", id: plan.repo, revision: plan.branch };
  const asking = { sender, client, repo, signal };
  if (plan.newRepo) await createRepo(asking, plan.visibility);
  if (plan.newBranch) await createBranch(asking);
  const parent = plan.parent ?? await readHead(asking);
  await using opened = new AsyncDisposableStack();
  const contents = await openFiles(plan, disk, opened);
  const kept = options.resume
    ? opened.use(await KeptUploads.open(disk, folder, { to: plan.url }))
    : undefined;
  let done = 0;
  const sent = await uploadFiles(contents, {
    ...asking,
    parent,
    pullRequest: plan.pullRequest,
    known,
    title: options.title ?? `Upload ${plan.files.length} files with Sluice`,
    hashing: (path, done, total) => report({ type: "hashing", path, done, total }),
    sent(bytes) {
      if (bytes === 0) return;
      done += bytes;
      report({ type: "uploading", done, total: plan.bytes });
    },
    committing: () => report({ type: "committing" }),
    memory: kept?.memory,
  });
  const found = await readFiles(sent.commit, asking);
  const missing = firstDifference(sent.files, found);
  if (missing) {
    throw sender.transport.error({ doing: `publish to ${quote(name)}` }, {
      kind: "damaged",
      found: `commit ${sent.commit} does not have ${quote(missing.path)} as it was sent`,
      advice: "Look at the repository, then run the same command again.",
    });
  }
  await kept?.remove();
  const result: PublishReport = {
    repo: plan.repo,
    url: plan.url,
    branch: plan.branch,
    commit: sent.commit,
    commitUrl: sent.commitUrl,
    pullRequestUrl: sent.pullRequestUrl,
    created: plan.newRepo || (options.created ?? false),
    unchanged: sent.commit === parent,
    files: sent.files,
    bytes: plan.bytes,
  };
  report({ type: "published", report: result });
  return result;
}

/** Verify, write a card if there is none, and plan. */
async function planVerified(
  folder: string,
  name: string,
  options: PublishOptions,
): Promise<{ readonly plan: PublishPlan; readonly known: KnownFiles | undefined }> {
  const { backend, source, signal } = options;
  let { verified } = options;
  if (!verified) {
    if (!backend) {
      throw new RangeError("Cannot publish: give a verification, or a backend for one.");
    }
    verified = await verify(folder, {
      backend,
      ...(source ? { source } : {}),
      ...(signal ? { signal } : {}),
    });
  }
  if (options.card !== undefined) {
    return { plan: await planPublish(folder, name, options), known: options.known };
  }
  const known = await hashFiles(folder, options);
  const described = await cardOf(folder, name, { verified, known });
  return { plan: await planPublish(folder, name, { ...options, ...described }), known };
}

/** Hashes of files, by path in their folder. */
export type KnownFiles = ReadonlyMap<string, LargeObject>;

/**
 * The SHA-256 of each file of a folder that is published, those that are on the Hub alone among
 * them.
 *
 * @param options.known Those that are not computed again.
 * @throws {RequestError} see `planPublish`.
 * @throws {CheckpointError} a file changed.
 */
export async function hashFiles(
  folder: string,
  { known = new Map(), disk = machine, signal, report = () => {} }: Pick<
    PublishOptions,
    "known" | "disk" | "signal" | "report"
  > = {},
): Promise<KnownFiles> {
  const found = new Map<string, LargeObject>();
  for (const { path, size } of (await listFolder(disk, folder)).files) {
    const there = known.get(path);
    if (there?.size === size) found.set(path, there);
    else {
      await using reader = await disk.open(`${folder}/${path}`);
      const hashed = (done: number) => report({ type: "hashing", path, done, total: size });
      found.set(path, { oid: await hashBlob(new FileBlob(reader), { signal, hashed }), size });
    }
  }
  const elsewhere = await readElsewhere(disk, folder);
  for (const file of elsewhere?.files ?? []) found.set(file.path, file);
  return found;
}

/**
 * The most that a process holds at once which verifies a folder on a device and publishes it: the
 * runtime, a slice of a weight (packed, its codes, what of them is read back), what is on its way.
 */
export function publishingBytes(device: DeviceLimits): number {
  return runtimeBytes(device) + 3 * device.sliceBytes + SENDING_BYTES;
}

/** A card, and the texts of files that it shows, by path. */
export type Described = Required<Pick<PlanOptions, "card" | "shown">>;

/** A card of what is known of a checkpoint. */
async function describe(
  facts: CardFacts,
  { known, record }: { readonly known: KnownFiles; readonly record: RunRecord | undefined },
): Promise<Described> {
  const pictures = record ? await picturesOf(record) : [];
  const shown = new Map(pictures.map(({ path, text }) => [path, text]));
  const made = pictures.map(({ path, text }) => {
    const bytes = new TextEncoder().encode(text);
    return [path, { oid: sha256(bytes), size: bytes.length }] as const;
  });
  const files = [...known, ...made].map(([path, { oid, size }]) => ({ path, size, sha256: oid }))
    .sort((a, b) => a.path < b.path ? -1 : 1);
  return { card: modelCard({ ...facts, pictures, files }), shown };
}

/** The card of a checkpoint: of what its record says, and what a verification found. */
export async function cardOf(
  folder: string,
  name: string,
  { verified, known }: { readonly verified: VerifyReport; readonly known: KnownFiles },
): Promise<Described> {
  await using checkpoint = await openCheckpoint(folder);
  const facts = factsOfCheckpoint(verified, checkpoint.config);
  return await describe({ name, ...facts }, { known, record: verified.record });
}

/** The card of a checkpoint whose weights are not here: of what its record says. */
export async function cardOfRecord(
  folder: string,
  name: string,
  { known, loaders = [], disk = machine }: {
    readonly known: KnownFiles;
    readonly loaders?: readonly Verdict[] | undefined;
    readonly disk?: Disk;
  },
): Promise<Described> {
  const readSettings = async (file: string) => {
    const path = `${folder}/${file}`;
    if ((await disk.stat(path))?.kind !== "file") return undefined;
    await using reader = await disk.open(path);
    return new TextDecoder().decode(await reader.read(0, reader.size));
  };
  const config = parseObject(await readSettings("config.json") ?? "") ?? {};
  const record = await readRecord({ readSettings });
  if (!record) {
    throw new CheckpointError(
      `Cannot publish ${quote(folder)}: ${quote(RECORD_FILE)} is not there, which says what its ` +
        "weights are. Make the checkpoint again.",
      { file: RECORD_FILE },
    );
  }
  const { format, total_bytes: bytes } = record;
  const found = { format, quantized: [], bytes, loaders, record };
  const facts = factsOfCheckpoint(found, config);
  return await describe({ name, ...facts }, { known, record });
}

/** The files of a plan, open until all is done, so that a change is noticed. */
async function openFiles(
  { folder, files, elsewhere, made }: PublishPlan,
  disk: Disk,
  opened: AsyncDisposableStack,
): Promise<Map<string, Content>> {
  const contents = new Map<string, Content>(elsewhere.map((file) => [file.path, file]));
  for (const { path, size } of files) {
    if (contents.has(path)) continue;
    const text = made.get(path);
    const reader = text === undefined
      ? opened.use(await disk.open(`${folder}/${path}`))
      : textReader(text);
    if (reader.size !== size) {
      throw new CheckpointError(
        `Cannot publish ${
          quote(path)
        }: it has ${reader.size} bytes and had ${size} a moment ago. ` +
          `Leave the folder alone until Sluice is done, and start again.`,
        { file: path },
      );
    }
    contents.set(path, new FileBlob(reader));
  }
  return contents;
}

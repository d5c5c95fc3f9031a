/**
 * What publishing a folder will do, found out by looking and changing nothing: which files go
 * where, who will see them, what is there already. Refused: what is no checkpoint's folder,
 * repositories with files of others, tokens that may only read, or not in this namespace.
 */
import { createHash } from "node:crypto";
import { HubError, quote, RequestError } from "../errors.ts";
import { HubClient, type HubFile } from "../hub/client.ts";
import { parseRepoSpec, type RepoSpec } from "../hub/repo_spec.ts";
import type { TransportOptions } from "../hub/transport.ts";
import { type Disk, disk as machine } from "../io/disk.ts";
import { CARD_TAG } from "./model_card.ts";
import { readSourceCard } from "../sources/source_card.ts";
import { type Elsewhere, readElsewhere } from "./elsewhere.ts";
import { listFolder } from "./folder.ts";
import { findRepo, readFiles, readHead, type RemoteRepo } from "./remote.ts";
import { checkRights } from "./rights.ts";
import { Sender } from "./sender.ts";

/** Who may see a repository. */
export type Visibility = "private" | "public";

/** How to publish. */
export interface PlanOptions {
  /** The way to the Hub, with a token that may write. */
  readonly hub: TransportOptions;
  /**
   * Of a new repository: private unless given. One that is there must have the one that is given.
   */
  readonly visibility?: Visibility;
  /** `main` unless given. A branch that is not there is made, empty. */
  readonly branch?: string;
  /** Propose the files as a pull request to the branch. */
  readonly pullRequest?: boolean;
  /** Write over files of others. Nothing is ever deleted. */
  readonly force?: boolean;
  /** The text of `README.md`, for a folder that has none. */
  readonly card?: string;
  /** Texts of files that the card shows, by path; published with it, where the folder has none. */
  readonly shown?: ReadonlyMap<string, string>;
  readonly signal?: AbortSignal | undefined;
  readonly disk?: Disk;
}

/** A file that will be published. */
export interface PublishedFile {
  /** Path in the folder and in the repository, with `/`. */
  readonly path: string;
  readonly size: number;
}

/** What publishing will do. */
export interface PublishPlan {
  readonly folder: string;
  /** `org/name` */
  readonly repo: string;
  /** Where people will look at it. */
  readonly url: string;
  readonly branch: string;
  readonly pullRequest: boolean;
  readonly visibility: Visibility;
  /** Whether the repository, and the branch, will be made. */
  readonly newRepo: boolean;
  readonly newBranch: boolean;
  /** The commit that ours is to follow; undefined when there is none yet. */
  readonly parent: string | undefined;
  readonly files: readonly PublishedFile[];
  /** Those of them that are on the Hub alone, though in no commit. */
  readonly elsewhere: Elsewhere["files"];
  /** Bytes of all files. */
  readonly bytes: number;
  /** Texts of files that are not in the folder, by path: `README.md`, and what it shows. */
  readonly made: ReadonlyMap<string, string>;
  /** Files of the folder that stay: their names begin with a dot. */
  readonly skipped: readonly string[];
  /** Whether what is on the branch was published by Sluice. */
  readonly ours: boolean;
  /** Files on the branch that will have other contents. */
  readonly overwritten: readonly string[];
  /** Files on the branch that stay as they are beside ours. */
  readonly left: readonly string[];
}

/** Files that the Hub makes by itself. */
const MADE_BY_HUB: ReadonlySet<string> = new Set([".gitattributes"]);

/** Files up to this size are hashed although nothing depends on it but what is shown. */
const HASHED_ANYWAY = 2 ** 24;

/** Files that a loader may take for the model. */
const WEIGHTS = /\.(?:safetensors|gguf|bin|pt|pth|onnx|msgpack|h5)$|\.index\.json$/i;

/** Where something is to be published, as it is now. */
export type Destination = Pick<
  PublishPlan,
  "repo" | "url" | "branch" | "pullRequest" | "visibility" | "newRepo" | "newBranch"
>;

/**
 * Find out what publishing will do.
 *
 * @throws {RequestError} the name, the folder or the branch cannot be used; the repository has
 * files of others (and no `force`), or another visibility than was asked for.
 * @throws {HubError} there is no token, or it may not write there; or the Hub cannot be asked.
 * @throws {CheckpointError} a link in the folder leads out of it.
 */
export async function planPublish(
  folder: string,
  name: string,
  options: PlanOptions,
): Promise<PublishPlan> {
  const { signal, disk = machine } = options;
  checkTarget(name, options);
  const { files: local, skipped } = await listFolder(disk, folder);
  const elsewhere = await readElsewhere(disk, folder);
  const files = [...local, ...elsewhere?.files.map(({ path, size }) => ({ path, size })) ?? []];
  const made = madeBeside(files, options);
  const sizes = [...made].map(([path, text]) => ({
    path,
    size: new TextEncoder().encode(text).length,
  }));
  const all = [...files, ...sizes];
  all.sort((a, b) => a.path < b.path ? -1 : 1);
  const { asking, parent, destination } = await reach(name, options);
  const { client } = asking;
  if (elsewhere && elsewhere.to !== destination.url) {
    throw new RequestError(
      `Cannot publish ${quote(folder)} to ${quote(name)}: its weights are not here, they were ` +
        `sent to ${elsewhere.to}. Publish it there.`,
    );
  }
  const there = parent === undefined ? new Map<string, HubFile>() : await readFiles(parent, asking);
  const ours = await isOurs(there, { client, signal });
  const plan: PublishPlan = {
    folder,
    ...destination,
    parent,
    files: all,
    elsewhere: elsewhere?.files ?? [],
    bytes: all.reduce((sum, { size }) => sum + size, 0),
    made,
    skipped,
    ours,
    overwritten: await findOverwritten(all, {
      there,
      folder,
      made,
      disk,
      elsewhere: new Map(elsewhere?.files.map(({ path, oid }) => [path, oid])),
      sure: !ours && !options.force,
    }),
    left: leftBeside(all.map(({ path }) => path), there),
  };
  checkOthers(plan, options.force ?? false);
  return plan;
}

/** What is published beside the files of a folder: the card, if it has none, and what it shows. */
function madeBeside(
  files: readonly PublishedFile[],
  { card, shown = new Map() }: Pick<PlanOptions, "card" | "shown">,
): ReadonlyMap<string, string> {
  const there = new Set(files.map(({ path }) => path));
  if (card === undefined || there.has("README.md")) return new Map();
  return new Map([["README.md", card], ...[...shown].filter(([path]) => !there.has(path))]);
}

/**
 * Find out whether there is any use in making something to publish there: the name, the token, and
 * the repository, if it is there already.
 *
 * @param paths What will be published, where that is known already: then files of others are
 * looked for, too.
 * @returns Where it goes.
 * @throws {RequestError} the name or the branch cannot be used; the repository has another
 * visibility than was asked for, or files of others (and no `force`).
 * @throws {HubError} there is no token, or it may not write there; or the Hub cannot be asked.
 */
export async function checkPublish(
  name: string,
  options: PlanOptions,
  paths?: readonly string[],
): Promise<Destination> {
  const { asking, parent, destination } = await reach(name, options);
  if (parent === undefined || !paths) return destination;
  const { repo: { id: repo }, client } = asking;
  const { pullRequest = false, force = false, signal } = options;
  const there = await readFiles(parent, asking);
  const ours = await isOurs(there, { client, signal });
  // What is small may be the same, byte for byte; weights that nobody has made yet are not.
  const overwritten = paths.filter((path) => there.has(path) && WEIGHTS.test(path));
  checkOthers({ repo, pullRequest, ours, overwritten, left: leftBeside(paths, there) }, force);
  return destination;
}

/** Files on the branch that stay beside those that are published. */
function leftBeside(paths: readonly string[], there: ReadonlyMap<string, HubFile>): string[] {
  return [...there.keys()].filter((path) => !MADE_BY_HUB.has(path) && !paths.includes(path));
}

/** The repository and the head of the branch, if they are there, and the way to them. */
async function reach(name: string, options: PlanOptions) {
  const { hub, signal, branch = "main", pullRequest = false } = options;
  const repo = checkTarget(name, options);
  const sender = new Sender(hub), client = new HubClient(hub);
  await checkRights(sender, { repo: repo.id, pullRequest, signal });
  const asking = { sender, client, repo, signal };
  const found = await findRepo(asking);
  checkFound(found, { name, ...options });
  const parent = found && await headOf(asking);
  const destination: Destination = {
    repo: repo.id,
    url: sender.home(`/${repo.id}`).href,
    branch,
    pullRequest,
    visibility: found ? found.private ? "private" : "public" : options.visibility ?? "private",
    newRepo: !found,
    newBranch: branch !== "main" && parent === undefined,
  };
  return { asking, parent, destination };
}

/** The repository and branch, if they can be named so. */
function checkTarget(name: string, { branch = "main", hub }: PlanOptions): RepoSpec {
  const repo = parseRepoSpec(name);
  // An address is no name: the card, the question and the command that goes on show what was given.
  if (repo?.id !== name || !name.includes("/")) {
    throw new RequestError(
      `Cannot publish to ${quote(name)}: say where on the Hub, as org/name ` +
        `(letters, digits, dots, dashes and underscores).`,
    );
  }
  if (parseRepoSpec(`${repo.id}@${branch}`)?.revision !== branch || branch.startsWith("refs/")) {
    throw new RequestError(`Cannot publish to the branch ${quote(branch)}: it is no name of one.`);
  }
  if (hub.token === undefined) {
    throw new HubError(
      `Cannot publish to ${quote(name)}: there is no token. Make one that may write at ` +
        `${hub.endpoint}/settings/tokens and set HF_TOKEN to it.`,
      { kind: "unauthorized" },
    );
  }
  return { ...repo, revision: branch };
}

/** A repository that is there must be what was asked for. */
function checkFound(
  found: RemoteRepo | undefined,
  { name, visibility, pullRequest }: PlanOptions & { readonly name: string },
): void {
  if (!found) {
    if (!pullRequest) return;
    throw new RequestError(
      `Cannot open a pull request to ${quote(name)}: there is no such repository. ` +
        `Leave \`pullRequest\` off to make it.`,
    );
  }
  if (found.id !== name) {
    throw new RequestError(
      `Cannot publish to ${quote(name)}: it is now ${quote(found.id)}. Use the new name.`,
    );
  }
  const is = found.private ? "private" : "public";
  if (visibility !== undefined && visibility !== is) {
    throw new RequestError(
      `Cannot publish to ${quote(name)} as ${visibility}: it is there already, and ${is}. ` +
        `Change that in its settings on the Hub, or leave \`${visibility}\` off.`,
    );
  }
}

async function headOf(asking: Parameters<typeof readHead>[0]): Promise<string | undefined> {
  try {
    return await readHead(asking);
  } catch (fault) {
    if (fault instanceof HubError && fault.kind === "missing-revision") return undefined;
    throw fault;
  }
}

/** Whether the card on the branch is one of Sluice's. */
async function isOurs(
  there: ReadonlyMap<string, HubFile>,
  { client, signal }: { client: HubClient; signal: AbortSignal | undefined },
): Promise<boolean> {
  const readme = there.get("README.md");
  if (!readme || readme.size > 2 ** 24) return false;
  const text = new TextDecoder().decode(await client.readWhole(readme, { signal }));
  return readSourceCard(text).tags.includes(CARD_TAG);
}

/**
 * Files on the branch that are not as ours are. To be sure, files of the same size are hashed; else
 * large ones are taken for others.
 */
async function findOverwritten(
  files: readonly PublishedFile[],
  { there, folder, made, disk, sure, elsewhere }: {
    readonly sure: boolean;
    /** Hashes of files that are not here. */
    readonly elsewhere: ReadonlyMap<string, string>;
    readonly there: ReadonlyMap<string, HubFile>;
    readonly folder: string;
    readonly made: ReadonlyMap<string, string>;
    readonly disk: Disk;
  },
): Promise<string[]> {
  const overwritten: string[] = [];
  for (const { path, size } of files) {
    const remote = there.get(path);
    if (!remote) continue;
    const known = elsewhere.get(path);
    if (known !== undefined) {
      if (remote.hash.hex !== known) overwritten.push(path);
      continue;
    }
    if (remote.size === size && (sure || size < HASHED_ANYWAY)) {
      const hash = remote.hash.kind === "sha256"
        ? createHash("sha256")
        : createHash("sha1").update(`blob ${size}\0`);
      const text = made.get(path);
      if (text !== undefined) hash.update(text);
      else {
        await using reader = await disk.open(`${folder}/${path}`);
        for (let at = 0; at < reader.size; at += 2 ** 22) {
          hash.update(await reader.read(at, Math.min(reader.size, at + 2 ** 22)));
        }
      }
      if (hash.digest("hex") === remote.hash.hex) continue;
    }
    overwritten.push(path);
  }
  return overwritten;
}

/**
 * Refuse to mix with, or to write over, what others have put there. A pull request does neither.
 */
function checkOthers(
  { repo, pullRequest, ours, overwritten, left }: Pick<
    PublishPlan,
    "repo" | "pullRequest" | "ours" | "overwritten" | "left"
  >,
  force: boolean,
): void {
  if (force || pullRequest) return;
  const weights = left.filter((path) => WEIGHTS.test(path));
  const problem = ours
    ? weights.length > 0
      ? `it has weights that would stay beside these (${
        some(weights)
      }), and loaders would mix them up`
      : undefined
    : overwritten.length > 0
    ? `it has files that Sluice did not write and that would be written over (${some(overwritten)})`
    : left.length > 0
    ? `it has files that Sluice did not write (${some(left)})`
    : undefined;
  if (problem === undefined) return;
  throw new RequestError(
    `Cannot publish to ${quote(repo)}: ${problem}. Give another name, a new \`branch\` or ` +
      `\`pullRequest\`; or say \`force\`, which deletes nothing but writes over files of the same name.`,
  );
}

function some(paths: readonly string[]): string {
  const shown = paths.slice(0, 3).map(quote).join(", ");
  return paths.length > 3 ? `${shown} and ${paths.length - 3} more` : shown;
}

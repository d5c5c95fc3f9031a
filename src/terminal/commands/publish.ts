/**
 * `sluice publish`: a checkpoint's folder to the Hub in one commit; and the same for what
 * `quantize` just made.
 */
import type { Backend } from "../../backend.ts";
import type { Command, Flag, Host, ParsedArguments } from "../command.ts";
import { quote, RequestError } from "../../errors.ts";
import {
  Alongside,
  cardOf,
  cardOfRecord,
  checkPublish,
  type Destination,
  hashFiles,
  planPublish,
  publish,
  publishingBytes,
  type PublishPlan,
  readElsewhere,
  SENT_AT_ONCE,
} from "../../publish.ts";
import { RECORD_FILE } from "../../io/names.ts";
import type { Plan } from "../../plan/planned.ts";
import type { Reporter } from "../../report.ts";
import type { Sink } from "../../sink.ts";
import { size } from "../../size.ts";
import { jsonLine } from "../json.ts";
import { count, plural, shellWord, visible } from "../text.ts";
import { disk } from "../../io/disk.ts";
import type { Verdict } from "../../format.ts";
import { sum } from "../../tensor.ts";
import { verify } from "../../verify.ts";
import { DEVICE_FLAGS, openDevice } from "./flags.ts";
import { beginViews, MESSAGE_FLAGS } from "./messages.ts";
import { hubAccess } from "./model.ts";
import { type Room, roomSentence } from "./upload_room.ts";

const GROUP = "Publishing";

/** Where and how a checkpoint is published. */
export const PUBLISH_FLAGS: readonly Flag[] = [
  {
    name: "private",
    type: "boolean",
    help: "a new repository is seen by its owners only (so it is unless told)",
    default: false,
    group: GROUP,
  },
  {
    name: "public",
    type: "boolean",
    help: "a new repository is seen by everyone",
    default: false,
    group: GROUP,
  },
  {
    name: "branch",
    type: "string",
    placeholder: "name",
    help: "commit to this branch, made if it is not there (main unless given)",
    group: GROUP,
  },
  {
    name: "pull-request",
    type: "boolean",
    help: "propose the files as a pull request",
    default: false,
    group: GROUP,
  },
  {
    name: "force",
    type: "boolean",
    help: "write over files that Sluice did not publish; nothing is deleted",
    default: false,
    group: GROUP,
  },
  {
    name: "yes",
    type: "boolean",
    help: "do not ask before publishing",
    default: false,
    group: GROUP,
  },
];

/** @throws {RequestError} it is said how to publish, and not where. */
export function refuseUnpublished(parsed: ParsedArguments): void {
  const flag = PUBLISH_FLAGS.find(({ name }) => name !== "yes" && parsed.has(name));
  if (!flag) return;
  throw new RequestError(
    `Cannot use --${flag.name} without --upload-repo: nothing is published.`,
  );
}

/** What a plan's output holds when it is published. */
export function publishedPaths({ files, sidecars }: Plan): string[] {
  return [...files, ...sidecars].map(({ path }) => path).concat(RECORD_FILE, "README.md");
}

/** Where the flags say that it goes. */
function target(parsed: ParsedArguments) {
  if (parsed.get("private") && parsed.get("public")) {
    throw new RequestError(
      "Cannot use --private and --public together: a repository is one or the other.",
    );
  }
  const branch = parsed.get("branch");
  return {
    ...(parsed.get("public") ? { visibility: "public" as const } : {}),
    ...(parsed.get("private") ? { visibility: "private" as const } : {}),
    ...(branch === undefined ? {} : { branch: String(branch) }),
    pullRequest: parsed.get("pull-request") === true,
    force: parsed.get("force") === true,
  };
}

/** Where it goes, by which way. */
async function optionsOf(parsed: ParsedArguments, host: Host) {
  const { writeToken, endpoint, userAgent, idleTimeout, offline } = await hubAccess(host);
  return {
    ...target(parsed),
    hub: {
      endpoint,
      userAgent,
      token: writeToken,
      ...(idleTimeout === undefined ? {} : { idleTimeout }),
      ...(offline === undefined ? {} : { offline }),
    },
    signal: host.signal,
  };
}

/**
 * See before hours of work whether its result may be published there.
 *
 * @param paths What it will be, once that is planned.
 * @throws {RequestError} there would be nobody to ask.
 * @throws what `checkPublish` throws.
 */
export async function checkRepo(
  repo: string,
  { parsed, host }: { parsed: ParsedArguments; host: Host },
  paths?: readonly string[],
): Promise<Destination> {
  checkAsking(repo, parsed, host);
  return await checkPublish(repo, await optionsOf(parsed, host), paths);
}

/**
 * Ask, before a run, whether its result is to be published, and have its weights uploaded while
 * they are made.
 *
 * @param sink Where they go here.
 * @throws {RequestError} it is not to be published.
 */
export async function uploadAlongside(
  sink: Sink,
  { destination, planned, room, parsed, host, report }: {
    readonly destination: Destination;
    readonly planned: Plan;
    /** How much of the weights may be here. */
    readonly room: Room | undefined;
    readonly parsed: ParsedArguments;
    readonly host: Host;
    readonly report: Reporter;
  },
): Promise<Alongside> {
  if (!parsed.get("quiet")) {
    const sentence = `${size(planned.totalBytes)}; each file of weights is sent when it is ` +
      "finished, and nothing can be seen there before the commit at the end";
    host.err.write(`sluice: ${placeOf(destination)}: ${sentence}\n`);
    if (room) host.err.write(`sluice: ${roomSentence(room)}\n`);
  }
  confirm(destination.repo, parsed, host);
  const { hub, signal } = await optionsOf(parsed, host);
  return new Alongside(sink, destination, {
    hub,
    signal,
    report,
    ...(room ? { room: room.bytes, stays: (path) => room.staying.has(path) } : {}),
  });
}

/** @throws {RequestError} whoever is asked does not want it. */
function confirm(repo: string, parsed: ParsedArguments, host: Host): void {
  if (parsed.get("yes") || host.confirm(`Publish to ${repo}?`)) return;
  throw new RequestError(`Nothing was published to ${repo}, as you said.`);
}

/** @throws {RequestError} a person would have to be asked, and there is none. */
function checkAsking(repo: string, parsed: ParsedArguments, host: Host): void {
  if (parsed.get("yes") || host.asks) return;
  throw new RequestError(
    `Cannot ask whether to publish to ${quote(repo)}: there is no terminal. Say --yes.`,
  );
}

/**
 * Verify a checkpoint, show what will be published, ask, and publish.
 *
 * @param alongside What was uploaded while it was made: then it was asked before that.
 */
export async function publishCheckpoint(
  folder: string,
  repo: string,
  { parsed, host, backend, alongside, loaders, alone = false }: {
    parsed: ParsedArguments;
    host: Host;
    backend: Backend;
    /** Whether the process does nothing else: then its memory is told of. */
    alone?: boolean;
    alongside?: Alongside;
    /** Who opens it, where that is known. */
    loaders?: readonly Verdict[];
  },
): Promise<void> {
  checkAsking(repo, parsed, host);
  const elsewhere = await readElsewhere(disk, folder);
  const verified = elsewhere ? undefined : await verify(folder, { backend, signal: host.signal });
  const given = alongside ? { known: alongside.taken } : {};
  const known = await hashFiles(folder, { ...given, signal: host.signal });
  const described = verified
    ? await cardOf(folder, repo, { verified, known })
    : await cardOfRecord(folder, repo, { known, loaders });
  const options = { ...await optionsOf(parsed, host), ...described };
  const plan = await planPublish(folder, repo, options);
  const planned = alone ? publishingBytes(backend) : undefined;
  if (!parsed.get("quiet")) host.err.write(describe(plan));
  if (planned !== undefined && !parsed.get("quiet")) {
    host.err.write(
      `sluice: memory: ${size(planned)} at most; ${SENT_AT_ONCE} files or parts are sent at a ` +
        "time, and read as they go\n",
    );
  }
  if (!alongside) confirm(plan.repo, parsed, host);
  let shown = -1;
  const report = await publish(folder, repo, {
    ...options,
    plan,
    ...(verified ? { verified } : {}),
    known,
    created: alongside?.created ?? false,
    resume: true,
    report: (event) => {
      if (event.type !== "uploading" || parsed.get("quiet")) return;
      const percent = Math.floor(event.done / Math.max(1, event.total) * 10) * 10;
      if (percent === shown) return;
      shown = percent;
      host.err.write(`sluice: uploaded ${percent} % of ${size(event.total)}\n`);
    },
  });
  const peakBytes = alone ? host.residentBytes() : undefined;
  if (parsed.get("json")) {
    host.out.write(jsonLine({ type: "published", ...report, peakBytes, plannedMemory: planned }));
  } else if (!parsed.get("quiet")) {
    const what = report.unchanged ? "was there already, just so" : "published";
    host.out.write(`${what}  ${report.pullRequestUrl ?? report.commitUrl}\n`);
    if (planned !== undefined && peakBytes !== undefined) {
      host.err.write(
        `sluice: peak memory ${size(peakBytes)} at most, planned ${size(planned)}\n`,
      );
    }
  }
  if (elsewhere && !parsed.get("quiet")) {
    const { files } = elsewhere;
    const peak = alongside ? `; at most ${size(alongside.peakBytes)} were here at once` : "";
    host.err.write(
      `sluice: ${visible(folder)} does not hold the weights (${plural(files.length, "file")}, ${
        size(sum(files, (file) => file.size))
      }): they are on the Hub alone${peak}.\n`,
    );
  }
}

/** The command line that publishes a checkpoint as the flags of another say. */
export function publishLine(folder: string, repo: string, parsed: ParsedArguments): string {
  const flags = PUBLISH_FLAGS.filter(({ name }) => parsed.has(name)).map(({ name }) => {
    const value = parsed.get(name);
    return value === true ? `--${name}` : `--${name} ${shellWord(String(value))}`;
  });
  return ["sluice publish", shellWord(folder), repo, ...flags].join(" ");
}

function describe(plan: PublishPlan): string {
  return [
    `sluice: ${placeOf(plan)}: ${count(plan.files.length)} files, ${size(plan.bytes)}`,
    ...plan.files.map((file) => `sluice:   ${file.path}  ${size(file.size)}`),
    ...(plan.overwritten.length > 0
      ? [`sluice: other contents than now: ${plan.overwritten.join(", ")}`]
      : []),
    ...(plan.skipped.length > 0 ? [`sluice: left out: ${plan.skipped.join(", ")}`] : []),
    "",
  ].join("\n");
}

/** Where it goes, in words. */
function placeOf(
  { url, branch, pullRequest, visibility, newRepo }: Destination,
): string {
  const where = newRepo
    ? `a new ${visibility} repository`
    : `a ${visibility} repository that is there`;
  const way = pullRequest ? `a pull request to ${branch}` : `branch ${branch}`;
  return `to ${url}, ${where}, ${way}`;
}

/** `sluice publish DIR org/name` */
export const publishCommand: Command = {
  arguments: [
    { name: "folder", help: "the checkpoint's folder" },
    { name: "repo", help: "where it goes: org/name" },
  ],
  flags: [...PUBLISH_FLAGS, ...DEVICE_FLAGS, ...MESSAGE_FLAGS],
  examples: [
    ["publish SmolLM2-int4 me/SmolLM2-135M-int4", "to a new private repository, after a question"],
    ["publish SmolLM2-int4 me/SmolLM2-135M-int4 --public --yes", "for everyone, without one"],
  ],
  leaves: true,
  async run(parsed, host) {
    const [folder, repo] = parsed.arguments as [string, string];
    await using stack = new AsyncDisposableStack();
    const views = stack.use(await beginViews(parsed, host));
    const backend = stack.use(await openDevice(parsed, views.report));
    views[Symbol.dispose]();
    await publishCheckpoint(folder, repo, { parsed, host, backend, alone: true });
  },
};

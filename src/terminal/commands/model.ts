/** From the word that names a model to a checkpoint, and from the environment to the Hub. */
import type { Host, ParsedArguments } from "../command.ts";
import { RequestError } from "../../errors.ts";
import { HUB_VARIABLES, hubSettings } from "../../hub/settings.ts";
import { disk } from "../../io/disk.ts";
import type { HubClient } from "../../hub/client.ts";
import { type HubAccess, isOnHub, open } from "../../open.ts";
import type { Reporter } from "../../report.ts";
import type { TensorSource } from "../../source.ts";
import type { ReadOptions } from "../../sources/checkpoint.ts";
import { budgetsOf } from "./budgets.ts";

/**
 * Bytes of staged shards unless `--max-disk` says otherwise: two of the usual 5 GB, and the
 * beginning of a third.
 */
const STAGING_BYTES = 12e9;

/**
 * Open what a word names: a path, `sample`, or a repository of the Hub, reached as the environment
 * says.
 *
 * @throws what `open` throws.
 */
export async function openModel(
  model: string,
  { parsed, host, report, stack, ...reading }: {
    parsed: ParsedArguments;
    host: Host;
    report: Reporter;
    stack: AsyncDisposableStack;
  } & ReadOptions,
): Promise<TensorSource> {
  if (!isOnHub(model) || await disk.stat(model)) return stack.use(await open(model, reading));
  const { writeToken: _, ...hub } = await hubAccess(host);
  const staging = stack.use(await host.temporaryFolder());
  return stack.use(
    await open(model, {
      ...reading,
      hub: {
        ...hub,
        report,
        signal: host.signal,
        stagingFolder: staging.path,
        maxDisk: budgetsOf(parsed, { staged: true }).disk ?? STAGING_BYTES,
      },
    }),
  );
}

/** The way to the Hub, as the environment says; the token for reading, and the one for writing. */
export async function hubAccess(
  host: Host,
): Promise<HubAccess & { readonly writeToken: string | undefined }> {
  const env = Object.fromEntries(HUB_VARIABLES.map((name) => [name, host.env(name)]));
  const { endpoint, token, readToken, offline, cacheFolder, idleTimeout } = await hubSettings(
    env,
    (path) => host.readTextIfAny(path),
  );
  return {
    endpoint,
    token: readToken,
    writeToken: token,
    offline,
    cacheFolder,
    idleTimeout,
    userAgent: `sluice/${host.version}`,
  };
}

/** A client of the Hub, as the environment says. */
export async function hubClient(host: Host): Promise<HubClient> {
  const { HubClient } = await import("../../hub/client.ts");
  return new HubClient(await hubAccess(host));
}

/** @throws {RequestError} the output would take the place of the checkpoint it is made of. */
export async function checkApart(model: string, output: string): Promise<void> {
  if (model === "sample") return;
  const [from, to] = await Promise.all([real(model), real(output)]);
  if (from === undefined || to === undefined) return;
  if (from === to || from.startsWith(`${to}/`) || from.startsWith(`${to}\\`)) {
    throw new RequestError(
      `Cannot write to "${output}": the checkpoint that is read lies there. Give another folder.`,
    );
  }
}

async function real(path: string): Promise<string | undefined> {
  return await disk.stat(path) ? await disk.realPath(path) : undefined;
}

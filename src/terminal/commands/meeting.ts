/** From the word that names where machines meet, a folder or a repository, to the place. */
import { disk } from "../../io/disk.ts";
import type { HubPlaceOptions } from "../../meeting/hub_place.ts";
import { isHubPlace } from "../../meeting/names.ts";
import type { Reporter } from "../../report.ts";
import type { MeetingPlace } from "../../run/meeting_place.ts";
import { WorkFolder } from "../../run/work_folder.ts";
import type { WorkJob } from "../../run/work_job.ts";
import type { Host } from "../command.ts";
import { hubAccess } from "./model.ts";

/** Where machines meet: the argument of `work`, `merge` and `cluster`. */
export const MEETING_PLACE = {
  name: "folder",
  help: "what `plan --work-dir` named: a folder that all machines reach, or hf://org/name",
} as const;

/** What opening a place takes. */
interface Opening {
  readonly host: Host;
  readonly report: Reporter;
  /** Ends the way to it. */
  readonly stack: AsyncDisposableStack;
}

/**
 * Make the place of a job, or find that it is there already.
 *
 * @throws {RequestError} something else is there.
 * @throws {HubError} the Hub refuses it, or cannot be asked.
 */
export async function makePlace(
  word: string,
  job: WorkJob,
  opening: Opening,
): Promise<MeetingPlace> {
  if (!isHubPlace(word)) return await WorkFolder.create(disk, word, job);
  const { HubPlace } = await import("../../meeting/hub_place.ts");
  return opening.stack.use(await HubPlace.create(word, job, await wayTo(opening)));
}

/**
 * Open the place of a job.
 *
 * @param opening.writes Whether units will be done.
 * @throws {RequestError} there is no job, or it is of another version.
 * @throws {HubError} the Hub refuses it, or cannot be asked.
 */
export async function openPlace(
  word: string,
  { writes = false, ...opening }: Opening & { readonly writes?: boolean },
): Promise<MeetingPlace> {
  if (!isHubPlace(word)) return await WorkFolder.open(disk, word);
  const { HubPlace } = await import("../../meeting/hub_place.ts");
  return opening.stack.use(await HubPlace.open(word, { ...await wayTo(opening, writes), writes }));
}

/** The way to the Hub, and a folder for what is on it. */
async function wayTo(
  { host, report, stack }: Opening,
  writes = true,
): Promise<HubPlaceOptions> {
  const { writeToken, token, endpoint, userAgent, idleTimeout, offline } = await hubAccess(host);
  const folder = writes ? stack.use(await host.temporaryFolder()).path : "";
  return {
    hub: {
      endpoint,
      userAgent,
      token: writes ? writeToken : token,
      ...(idleTimeout === undefined ? {} : { idleTimeout }),
      ...(offline === undefined ? {} : { offline }),
    },
    folder,
    report,
    signal: host.signal,
  };
}

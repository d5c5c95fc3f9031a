/** How far a plan is that machines share. */
import type { MeetingPlace } from "../../run/meeting_place.ts";
import { pairs } from "../table.ts";
import { plural, visible } from "../text.ts";

/** How far it is. */
export interface JobStatus {
  /** Where machines meet. */
  readonly job: string;
  /** Units that are done, and all of them. */
  readonly units: number;
  readonly of: number;
  /** Those that are not, and who is at each, as far as it is told. */
  readonly left: readonly { readonly unit: string; readonly worker: string | null }[];
}

/** Look how far a job is. @throws what asking the place throws. */
export async function jobStatus(place: MeetingPlace): Promise<JobStatus> {
  const { path, job: { units } } = place;
  const open = await place.undone();
  const holders = await place.holders();
  return {
    job: path,
    units: units.length - open.length,
    of: units.length,
    left: open.map((i) => ({ unit: units[i]!, worker: holders.get(i) ?? null })),
  };
}

/** It as a person reads it. */
export function jobStatusText({ job, units, of, left }: JobStatus): string {
  const held = Map.groupBy(left, ({ worker }) => worker ?? "nobody");
  return pairs([
    ["job", visible(job)],
    ["done", `${units} of ${plural(of, "unit")}`],
    ...[...held].map(([worker, rows]) =>
      [
        worker === "nobody" ? "waiting" : `worker ${visible(worker)}`,
        some(rows.map(({ unit }) => visible(unit))),
      ] as const
    ),
    ...(left.length === 0
      ? [["next", `sluice merge ${visible(job)} --output FOLDER`] as const]
      : []),
  ]);
}

function some(names: readonly string[]): string {
  const shown = names.slice(0, 3).join(", ");
  return names.length > 3 ? `${shown} and ${names.length - 3} more` : shown;
}

/** How far a run is, by the journal beside its output. */
import { join, resolve } from "node:path";
import { quote, RequestError } from "../errors.ts";
import { type Disk, disk as machine } from "../io/disk.ts";
import { PARTIAL, RECORD_FILE, SEARCH_SUFFIX } from "../io/names.ts";
import { lookAtStage } from "../sinks/stage.ts";
import { sum } from "../tensor.ts";
import { readRecords } from "./journal_records.ts";

/** How far a run is. */
export interface RunStatus {
  /** `unknown`: it is not finished, and whether it goes on cannot be told. */
  readonly state: "running" | "stopped" | "unknown" | "finished";
  /** Units that are finished and saved, and all of them; null where it is finished. */
  readonly units: number | null;
  readonly of: number | null;
  /** The last of those that are finished. */
  readonly unit: string | null;
  /** Bytes of tensors that are written and saved, and bytes of all files of the output. */
  readonly writtenBytes: number | null;
  readonly totalBytes: number | null;
  /** Bytes of the carry. */
  readonly carryBytes: number | null;
  /** When it was last saved, as ISO 8601 has it. */
  readonly saved: string | null;
  /** As others can repeat it. */
  readonly command: string | null;
  /** Whether its bits are still searched for; nothing else was begun then. */
  readonly searching: boolean;
}

/** What a run whose journal says nothing has. */
const UNTOLD = {
  ...{ units: null, of: null, unit: null, writtenBytes: null, totalBytes: null },
  ...{ carryBytes: null, saved: null, command: null },
};

const STATES = { alive: "running", dead: "stopped", unknown: "unknown" } as const;

/**
 * How far the run into a folder is.
 *
 * @param folder The output, which need not be there yet, or the folder that grows beside it.
 * @throws {RequestError} nothing is there that tells of a run, or its journal is damaged.
 */
export async function runStatus(
  folder: string,
  { disk = machine }: { readonly disk?: Disk } = {},
): Promise<RunStatus> {
  const target = resolve(folder).replace(/\.sluice-partial$/, "");
  const found = await lookAtStage(disk, target);
  const known = found && readRecords(found.records);
  if (found && known) {
    const { head, saves } = known;
    const units = saves.flatMap(({ units }) => units);
    const last = saves.at(-1);
    return {
      state: STATES[found.owner],
      units: units.length,
      of: head.units.length,
      unit: units.at(-1)?.name ?? null,
      writtenBytes: sum(units.flatMap(({ pieces }) => pieces), ({ begin, end }) => end - begin),
      totalBytes: head.bytes,
      carryBytes: last?.carry?.bytes ?? 0,
      saved: last?.at ?? null,
      command: head.command,
      searching: false,
    };
  }
  if ((await disk.stat(join(target, RECORD_FILE)))?.kind !== "file") {
    const outputs = await outputsIn(target, disk);
    if (outputs.length > 0) {
      throw new RequestError(
        `Cannot tell how far a run into ${quote(folder)} is: each output in it has a run of its ` +
          `own. Give one of them: ${outputs.map((name) => quote(join(folder, name))).join(", ")}.`,
      );
    }
    if (await disk.lstat(`${target}${SEARCH_SUFFIX}`)) {
      return { ...UNTOLD, state: found ? STATES[found.owner] : "stopped", searching: true };
    }
    throw new RequestError(
      `Cannot tell how far a run into ${quote(folder)} is: there is neither a checkpoint of ` +
        "Sluice nor a run that could go on. Give the folder that the run writes.",
    );
  }
  return { ...UNTOLD, state: "finished", searching: false };
}

/** Folders within one that are outputs, or will be: a recipe or a batch has several. */
async function outputsIn(folder: string, disk: Disk): Promise<string[]> {
  if ((await disk.stat(folder))?.kind !== "folder") return [];
  const names = await disk.list(folder);
  const made = await Promise.all(names.map(async (name) => {
    if (PARTIAL.test(name)) return name.replace(PARTIAL, "");
    return (await disk.stat(join(folder, name, RECORD_FILE)))?.kind === "file" ? name : undefined;
  }));
  return [...new Set(made.filter((name) => name !== undefined))];
}

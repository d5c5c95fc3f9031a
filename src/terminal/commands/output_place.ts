/**
 * Where `quantize` puts a checkpoint: the folder that was named, or one of its own that stays only if
 * the checkpoint could not be published; and what stays of a run that was stopped.
 */
import { join, resolve } from "node:path";
import { RequestError } from "../../errors.ts";
import { disk } from "../../io/disk.ts";
import { SEARCH_SUFFIX } from "../../io/names.ts";
import { readRecords } from "../../run/journal_records.ts";
import type { Sink } from "../../sink.ts";
import type { Host, ParsedArguments } from "../command.ts";
import { RunStays } from "../faults.ts";

/** What stopped a run that can be gone on with; undefined where it cannot. */
export function keptOf({ resumption }: Sink, cause: unknown): RunStays | undefined {
  const records = resumption?.records ?? [];
  const known = readRecords(records);
  // What a person asked for wrongly is to be asked for otherwise.
  if (!known || records.length < 2 || cause instanceof RequestError) return undefined;
  const units = known.saves.flatMap(({ units }) => units).length;
  return new RunStays({ units, of: known.head.units.length, cause });
}

/**
 * The folder of the checkpoint; without one on the command line, one that stays only if it could
 * not be published.
 */
export async function placeOf(
  parsed: ParsedArguments,
  host: Host,
  stack: AsyncDisposableStack,
): Promise<{ readonly path: string; keep(): Promise<void> }> {
  const output = parsed.get("output");
  if (output !== undefined) return { path: String(output), keep: () => Promise.resolve() };
  const upload = parsed.get("upload-repo");
  if (upload === undefined) {
    throw new RequestError(
      "Cannot quantize: say where the result goes, --output and a new folder (or --dry-run).",
    );
  }
  const folder = stack.use(await host.temporaryFolder());
  return {
    path: join(folder.path, String(upload).split("/").at(-1)!),
    keep: () => folder.keep(),
  };
}

/** Remove what a search for bits has kept beside an output that is whole. */
export async function removeSearch(output: string): Promise<void> {
  const path = `${resolve(output)}${SEARCH_SUFFIX}`;
  if ((await disk.lstat(path))?.kind === "file") await disk.remove(path);
}

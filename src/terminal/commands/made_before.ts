/**
 * Outputs that are there already: a run of several was killed between their last renames, or others
 * of them were removed, and the same command makes the rest; or what was made was not published.
 */
import { join } from "node:path";
import { quote, RequestError } from "../../errors.ts";
import { RECORD_FILE } from "../../io/names.ts";
import type { Plan } from "../../plan/planned.ts";
import { differenceFrom, type RunRecord } from "../../report/record.ts";
import { parseRecord } from "../../report/record_file.ts";
import type { Host, ParsedArguments } from "../command.ts";
import type { PlacedRecipe } from "./output_folders.ts";
import type { Texts } from "./walks.ts";

/**
 * The record of a checkpoint in a folder; undefined where there is none.
 *
 * @throws {CheckpointError} see `parseRecord`.
 */
export async function recordIn(folder: string, host: Host): Promise<RunRecord | undefined> {
  const text = await host.readTextIfAny(join(folder, RECORD_FILE));
  return text === undefined ? undefined : parseRecord(text);
}

/** Records of outputs that are there, by path; of none where nothing or all is there. */
export async function recordsThere(
  outputs: readonly PlacedRecipe[],
  { parsed, host }: { readonly parsed: ParsedArguments; readonly host: Host },
): Promise<ReadonlyMap<string, RunRecord>> {
  const found = new Map<string, RunRecord>();
  if (parsed.get("overwrite") === true || parsed.get("restart") === true) return found;
  for (const { path } of outputs) {
    const record = await recordIn(path, host);
    if (record) found.set(path, record);
  }
  return found.size < outputs.length ? found : new Map();
}

/**
 * @throws {RequestError} what is there is not what the command would make.
 */
export function checkMade(
  there: ReadonlyMap<string, RunRecord>,
  outputs: readonly PlacedRecipe[],
  { plans, texts }: { readonly plans: readonly Plan[]; readonly texts: Texts },
): void {
  for (const [i, { path }] of outputs.entries()) {
    const record = there.get(path);
    const other = record && differenceFrom(record, plans[i]!, {
      calibration: texts.calibration,
      evaluation: texts.evaluation,
    });
    if (other !== undefined) throw otherThere(path, other);
  }
}

/** The refusal of an output that is there, and whose `other` is not what the command would make. */
export function otherThere(path: string, other: string): RequestError {
  return new RequestError(
    `Cannot write to ${quote(path)}: the checkpoint that is there is another than this command ` +
      `makes: its ${other} differs. Give a new folder, or say \`overwrite\`.`,
  );
}

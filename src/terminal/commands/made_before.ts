/**
 * Outputs of a run of several that are there already: a run was killed between their last renames,
 * or others of them were removed. The same command makes the rest.
 */
import { join } from "node:path";
import { quote, RequestError } from "../../errors.ts";
import { RECORD_FILE } from "../../io/names.ts";
import { parseObject } from "../../json.ts";
import type { Plan } from "../../plan/planned.ts";
import { differenceFrom, type RunRecord } from "../../report/record.ts";
import type { Host, ParsedArguments } from "../command.ts";
import type { PlacedRecipe } from "./output_folders.ts";
import type { Texts } from "./walks.ts";

/** The record of a checkpoint in a folder; undefined where there is none. */
export async function recordIn(folder: string, host: Host): Promise<RunRecord | undefined> {
  const text = await host.readTextIfAny(join(folder, RECORD_FILE));
  return parseObject(text ?? "") as RunRecord | undefined;
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
    if (other === undefined) continue;
    throw new RequestError(
      `Cannot write to ${quote(path)}: the checkpoint that is there is another than this command ` +
        `makes: its ${other} differs. Give a new folder, or say \`overwrite\`.`,
    );
  }
}

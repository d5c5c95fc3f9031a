/**
 * The folder that a report goes into. It is looked at, and made, before the work begins: new,
 * empty, or one that holds a report and nothing else, which is replaced. Refused are all others,
 * and one in the output's folder, which is a checkpoint and nothing else.
 */
import { join, resolve, sep } from "node:path";
import { quote, RequestError } from "../errors.ts";
import { disk, makeFolders } from "../io/disk.ts";
import type { Host, ParsedArguments } from "./command.ts";

/**
 * A folder for a report; folders that were made for it are removed again if nothing was written.
 */
export interface ReportFolder<Name extends string = string> extends AsyncDisposable {
  write(files: Readonly<Record<Name, string>>): Promise<void>;
}

/** The folder that `--report` names, as {@linkcode openReportFolder} opens it; none without. */
export async function askedReportFolder<Name extends string>(
  parsed: ParsedArguments,
  options: Parameters<typeof openReportFolder<Name>>[1],
): Promise<ReportFolder<Name> | undefined> {
  const path = parsed.get("report");
  return path === undefined ? undefined : await openReportFolder(String(path), options);
}

/**
 * Look at a folder for a report, and make it if it is not there.
 *
 * @throws {RequestError} it holds something else, or it is not apart from the output.
 * @throws {SpaceError} the system does not let it be written to.
 */
export async function openReportFolder<Name extends string>(
  path: string,
  { output, files, host }: {
    /** Where a checkpoint goes; absent: none is written. */
    readonly output?: string;
    /** The report's files; the first is JSON that says who made it. */
    readonly files: readonly [first: Name, ...rest: Name[]];
    readonly host: Host;
  },
): Promise<ReportFolder<Name>> {
  const refuse = (found: string): never => {
    throw new RequestError(
      `Cannot write the report to ${quote(path)}: ${found}. Give another folder.`,
    );
  };
  const target = resolve(path);
  const checkpoint = output === undefined ? undefined : resolve(output);
  if (checkpoint !== undefined && `${target}${sep}`.startsWith(`${checkpoint}${sep}`)) {
    refuse("the checkpoint goes there, which is published as it is");
  }
  if (checkpoint !== undefined && `${checkpoint}${sep}`.startsWith(`${target}${sep}`)) {
    refuse("the checkpoint goes into it");
  }
  const found = await disk.stat(target);
  if (found && found.kind !== "folder") refuse("it is not a folder");
  if (found && !(await holdsReport(target, files, host))) {
    refuse("the folder holds something other than a report");
  }
  await using undo = new AsyncDisposableStack();
  await makeFolders(disk, target, undo);
  for (const name of files) await host.tryWrite(join(target, name));
  const cleanup = undo.move();
  return {
    async write(texts) {
      for (const name of files) await host.writeText(join(target, name), texts[name]);
    },
    [Symbol.asyncDispose]: () => cleanup.disposeAsync(),
  };
}

/** Whether a folder is empty, or holds a report of Sluice and nothing else. */
async function holdsReport(
  folder: string,
  files: readonly [first: string, ...rest: string[]],
  host: Host,
): Promise<boolean> {
  const names = await disk.list(folder);
  if (names.length === 0) return true;
  if (names.some((name) => !files.some((file) => file === name))) return false;
  try {
    const { generator } = JSON.parse(await host.readText(join(folder, files[0]))) as {
      generator?: unknown;
    };
    return String(generator).startsWith("sluice ");
  } catch (error) {
    if (error instanceof SyntaxError || error instanceof RequestError) return false;
    throw error;
  }
}

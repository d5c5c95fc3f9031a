/**
 * Which files beside the weights travel along: tokenizers, templates, generation and preprocessor
 * settings, licences. Left behind: programs (`*.py`; Sluice runs and spreads no code), other
 * formats' weights, a base model's README, what trainers and version control leave.
 */
import { CheckpointError, quote } from "../errors.ts";
import type { ReadableDisk } from "../io/disk.ts";
import type { FileInfo } from "../source.ts";

/** Bytes of the largest file that is carried along: the largest tokenizers have about 40 MB. */
const MAX_BYTES = 256 * 2 ** 20;

/** Folders of which the files are carried along too. */
const FOLDERS: ReadonlySet<string> = new Set(["additional_chat_templates"]);

/** Files with a carried extension that are no part of a model, or that Sluice writes anew. */
const LEFT: ReadonlySet<string> = new Set([
  "config.json",
  "sluice.json",
  "quantize_config.json",
  "quant_config.json",
  "trainer_state.json",
  "training_args.json",
  "all_results.json",
  "train_results.json",
  "eval_results.json",
  "requirements.txt",
]);

const CARRIED = /\.(?:json|txt|model|jinja|tiktoken|vocab|spm)$/i;
const LEGAL = /^(?:licen[cs]e|notice|copying|use_policy|copyright|attribution)/i;
const CODE = /\.(?:py|pyc|sh|bat|exe|so|dll|js|ts)$/i;
const TEXT = /(?:^[^.]+|\.(?:md|txt|rst|pdf|html))$/i;

/** Whether a file of this name travels along. */
export function isCompanion(name: string): boolean {
  if (name.startsWith(".") || LEFT.has(name) || CODE.test(name)) return false;
  if (/\.index\.json$/i.test(name) || /^readme/i.test(name)) return false;
  return CARRIED.test(name) || LEGAL.test(name) && TEXT.test(name);
}

/**
 * The files of a folder that travel along, by path relative to it.
 *
 * @throws {CheckpointError} one of them is a link to a file of another name outside the folder.
 */
export async function findCompanions(
  disk: ReadableDisk,
  folder: string,
  names: readonly string[],
): Promise<Map<string, FileInfo>> {
  const files = new Map<string, FileInfo>();
  const add = async (path: string) => {
    const found = await disk.stat(`${folder}/${path}`);
    if (found?.kind !== "file" || found.size > MAX_BYTES) return;
    await checkLink(disk, folder, path);
    files.set(path, { path, size: found.size });
  };
  for (const name of names) {
    if (isCompanion(name)) await add(name);
    else if (FOLDERS.has(name) && (await disk.lstat(`${folder}/${name}`))?.kind === "folder") {
      for (const inner of await disk.list(`${folder}/${name}`)) {
        if (isCompanion(inner)) await add(`${name}/${inner}`);
      }
    }
  }
  return files;
}

/**
 * Refuse a link that would carry a private file into an output: one is followed only to a file of
 * the same name, or within the folder, or to where the Hugging Face cache keeps contents
 * (`snapshots/<commit>/x` → `blobs/<hash>`).
 *
 * @throws {CheckpointError} the link leads elsewhere.
 */
export async function checkLink(disk: ReadableDisk, folder: string, path: string): Promise<void> {
  if ((await disk.lstat(`${folder}/${path}`))?.kind !== "link") return;
  const home = (await disk.realPath(folder)).replaceAll("\\", "/");
  const target = (await disk.realPath(`${folder}/${path}`)).replaceAll("\\", "/");
  const name = path.split("/").at(-1)!;
  const cache = home.match(/^(.*)\/snapshots\/[^/]+$/)?.[1];
  if (
    target.startsWith(`${home}/`) || target.endsWith(`/${name}`) ||
    cache !== undefined && target.startsWith(`${cache}/blobs/`)
  ) return;
  throw new CheckpointError(
    `Cannot read ${quote(path)}: it is a link to ${quote(target)}, outside the checkpoint and of ` +
      `another name. Put the file itself in its place if it belongs to the model.`,
    { file: path },
  );
}

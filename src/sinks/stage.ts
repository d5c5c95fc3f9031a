/**
 * The folder beside an output in which it grows. Where a run may go on after it was stopped, it is
 * `<name>.sluice-partial`, with a journal and a carry beside the files, and there is one of an
 * output; else it is `<name>.sluice-partial-<random>`, as older versions have it. What killed runs
 * have left of either is removed, unless a run can go on with it or it cannot be judged.
 */
import { join } from "node:path";
import { quote, RequestError } from "../errors.ts";
import type { Disk } from "../io/disk.ts";
import { type Journal, type JournalText, openJournal, readJournal } from "../io/journal.ts";
import { discard, LEFT_BEHIND, removeOwned, sweep } from "../io/left_behind.ts";
import { type Claim, claimOf, claimSoon, comesToOwn, own, takeOver } from "../io/owner.ts";
import { PARTIAL } from "../io/names.ts";
import { codeOf } from "../io/system_faults.ts";
import type { Reporter } from "../report.ts";

/** In a stage: the files of the output, what it replaces meanwhile, the journal, and the carry. */
export const STAGE = {
  files: "new",
  old: "old",
  journal: "journal.jsonl",
  carry: "carry",
} as const;

/** Where an output grows that a run may go on with. */
export function stageOf(target: string): string {
  return `${target}.sluice-partial`;
}

/** Where one grows that nobody goes on with. */
export function passingStageOf(target: string): string {
  return `${stageOf(target)}-${crypto.randomUUID().slice(0, 8)}`;
}

/** A stage of this process. */
export interface Stage {
  readonly owner: AsyncDisposable;
  /** Present where a run may go on with it. */
  readonly journal?: Journal;
}

/**
 * Remove stages of killed runs; a checkpoint that one was about to replace gets its name back, and
 * those that a run can go on with are named, but for those of `targets`, which are to be gone on
 * with.
 */
export async function sweepStages(
  disk: Disk,
  parent: string,
  { targets, report }: { readonly targets: readonly string[]; readonly report: Reporter },
): Promise<void> {
  const stages = new Set(targets.map(stageOf));
  await sweep(disk, {
    parent,
    pattern: PARTIAL,
    nameStrangers: true,
    report,
    skip: (folder) => stages.has(folder),
    rescue: (stage) => rescue(disk, stage),
  });
}

/** What in a stage is worth more than the room it takes. */
async function rescue(
  disk: Disk,
  stage: string,
): Promise<{ readonly stays: boolean; readonly message: string } | undefined> {
  const target = stage.replace(PARTIAL, "");
  const back = await putBack(disk, stage, target);
  try {
    if (await worth(disk, stage)) {
      return {
        stays: true,
        message: `A run that was stopped has left ${quote(stage)}, and goes on by its command: ` +
          "repeat that, or remove the folder.",
      };
    }
  } catch (error) {
    // Another output's journal that is damaged is for whoever goes on with that.
    if (!(error instanceof RequestError)) throw error;
    return { stays: true, message: `${error.message} Remove the folder.` };
  }
  if (!back) return undefined;
  const message = `Put ${quote(target)} back in its place: a run was killed while it replaced it.`;
  return { stays: false, message };
}

/** Give a checkpoint its name again that a killed run was about to replace. */
async function putBack(disk: Disk, stage: string, target: string): Promise<boolean> {
  const old = join(stage, STAGE.old);
  if (!(await disk.lstat(old)) || await disk.lstat(target)) return false;
  await disk.rename(old, target);
  return true;
}

/** What lies where an output grows that a run may go on with; undefined where nothing does. */
export async function lookAtStage(
  disk: Disk,
  target: string,
): Promise<{ readonly owner: Claim["owner"]; readonly records: readonly unknown[] } | undefined> {
  const stage = stageOf(target);
  const path = join(stage, STAGE.journal);
  if ((await disk.lstat(path))?.kind !== "file") return undefined;
  const { records } = await readJournal(disk, path);
  await using claim = await claimOf(disk, stage);
  return { owner: claim.owner, records };
}

/** The journal of a stage that holds finished units; undefined where there are none. */
async function worth(disk: Disk, stage: string): Promise<JournalText | undefined> {
  const path = join(stage, STAGE.journal);
  if ((await disk.lstat(path))?.kind !== "file") return undefined;
  // What was committed has its name.
  if ((await disk.lstat(join(stage, STAGE.files)))?.kind !== "folder") return undefined;
  const journal = await readJournal(disk, path);
  return journal.records.length > 1 ? journal : undefined;
}

/** What the system says where others have made, moved or removed a stage meanwhile. */
const RACED: ReadonlySet<unknown> = new Set(["ENOENT", "EEXIST"]);

/**
 * Do what fails where another run begins at the same moment, and say so then.
 *
 * @param path The output.
 * @throws {RequestError} it failed for that.
 */
export async function unlessRaced<T>(path: string, work: () => Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    if (!RACED.has(codeOf(error))) throw error;
    throw busy(path);
  }
}

function busy(path: string): RequestError {
  return new RequestError(
    `Cannot write to ${quote(path)}: another run is writing it. ` +
      "Wait until that is done, or give another folder.",
  );
}

/**
 * Take over the stage of an output that an earlier run has left; undefined where there is none that
 * is worth it.
 *
 * @param options.restart What an earlier run has done is not wanted.
 * @throws {RequestError} another run is at it, whether one is cannot be told, or its journal is
 * damaged.
 */
export async function takeStage(
  disk: Disk,
  { path, target, restart, report }: {
    /** The output, as a person wrote it. */
    readonly path: string;
    readonly target: string;
    readonly restart: boolean;
    readonly report: Reporter;
  },
): Promise<Stage | undefined> {
  const stage = stageOf(target);
  const found = await disk.lstat(stage);
  if (!found) return undefined;
  const refuse = (found: string): never => {
    throw new RequestError(`Cannot write to ${quote(path)}: ${found}`);
  };
  if (found.kind !== "folder") refuse(`${quote(stage)} is in the way. Remove it.`);
  // Whoever may write there could have files written or removed elsewhere, by links.
  if (!(await disk.isSecret(stage))) {
    refuse(`${quote(stage)} is open to others, which nothing of Sluice is. Remove it.`);
  }
  const isEmpty = async () => (await disk.list(stage)).length === 0;
  await comesToOwn(disk, stage, async () => !(await isEmpty()));
  if (await isEmpty()) {
    // Whoever made it did not come to say whose it is.
    await disk.remove(stage);
    return undefined;
  }
  await using undo = new AsyncDisposableStack();
  const owner = undo.use(await claimSoon(disk, stage));
  if (owner.owner === "alive" || !(await disk.lstat(stage))) throw busy(path);
  if (owner.owner === "unknown") {
    refuse(
      `an earlier run has left ${quote(stage)}, and whether it still goes on cannot be told. ` +
        "Remove the folder if it does not.",
    );
  }
  const back = await putBack(disk, stage, target);
  const journal = restart ? undefined : await worth(disk, stage);
  if (journal) {
    await takeOver(disk, stage);
    const opened = await openJournal(disk, join(stage, STAGE.journal), journal);
    undo.move();
    return { owner, journal: opened };
  }
  await undo.disposeAsync();
  const message = await discard(disk, await putAside(disk, stage), stage);
  report({
    type: "warning",
    code: LEFT_BEHIND,
    message: back
      ? `Put ${quote(target)} back in its place: a run was killed while it replaced it.`
      : message,
  });
  return undefined;
}

/** Remove a stage that nobody goes on with. */
export async function removeStage(disk: Disk, stage: string): Promise<void> {
  await removeOwned(disk, await putAside(disk, stage));
}

/**
 * Give a stage a name that no run goes on with: one that is killed while it removes what is in it
 * leaves none that is half there. Its name then.
 */
async function putAside(disk: Disk, stage: string): Promise<string> {
  if (!stage.endsWith(stageOf(""))) return stage;
  const aside = passingStageOf(stage.replace(PARTIAL, ""));
  await disk.rename(stage, aside);
  return aside;
}

/**
 * Make a stage.
 *
 * @param undo Removes it again.
 * @throws {RequestError} another run has made it meanwhile.
 */
export async function makeStage(
  disk: Disk,
  stage: string,
  { undo, resumable }: { readonly undo: AsyncDisposableStack; readonly resumable: boolean },
): Promise<Stage> {
  if (resumable && await disk.lstat(stage)) {
    throw busy(stage.replace(PARTIAL, ""));
  }
  await disk.makeFolder(stage, { secret: true });
  undo.defer(() => removeStage(disk, stage));
  const owner = undo.use(await own(disk, stage));
  // After a power failure nothing is there without what says whose it was.
  if (resumable) await disk.syncFolder(stage);
  await disk.makeFolder(join(stage, STAGE.files));
  if (!resumable) return { owner };
  await disk.makeFolder(join(stage, STAGE.carry));
  const journal = undo.use(await openJournal(disk, join(stage, STAGE.journal)));
  return { owner, journal };
}

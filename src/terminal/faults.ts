/** From an exception to one sentence and an exit code. */
import {
  CheckpointError,
  DeviceError,
  HubError,
  RequestError,
  SpaceError,
  UnsupportedError,
} from "../errors.ts";
import { withFlags } from "./option_words.ts";
import { plural, visibleMessage } from "./text.ts";

/** What the process ends with. */
export const EXIT = {
  done: 0,
  request: 1,
  checkpoint: 2,
  device: 3,
  hub: 4,
  space: 5,
  bug: 70,
  interrupted: 75,
  killed: 130,
} as const;

/** The reason a run was aborted: the person asked for it. */
export class Interrupted extends Error {
  override readonly name = "Interrupted";
}

/** Nobody reads any more what a command prints. */
export class ReaderGone extends Error {
  override readonly name = "ReaderGone";
}

/** Something stopped a command when its checkpoint was there and whole, where it stays. */
export class CheckpointStays extends Error {
  override readonly name = "CheckpointStays";
  /** The folder. */
  readonly checkpoint: string;
  /** The command line that does the rest. */
  readonly next: string | undefined;
  constructor(checkpoint: string, { next, cause }: { next: string | undefined; cause: unknown }) {
    super(`The checkpoint is in ${checkpoint}`, { cause });
    this.checkpoint = checkpoint;
    this.next = next;
  }
}

/** Some of many jobs failed; each was told of when it did. */
export class JobsFailed extends Error {
  override readonly name = "JobsFailed";
  readonly code: Fault["code"];
  constructor(message: string, code: Fault["code"]) {
    super(message);
    this.code = code;
  }
}

/** Something stopped a command, and the same one goes on. */
export class GoesOn extends Error {
  override readonly name: string = "GoesOn";
  /** What it will do. */
  readonly next: string;
  /** @param after What is done, in words. */
  constructor(after: string, { cause }: { readonly cause: unknown }) {
    super("A command was stopped", { cause });
    this.next = `The same command goes on after ${after}.`;
  }
}

/** Something stopped a run, and the same command goes on with it. */
export class RunStays extends GoesOn {
  override readonly name = "RunStays";
  /** How many units are done. */
  readonly units: number;
  constructor(
    { units, of, cause }: {
      readonly units: number;
      readonly of: number;
      readonly cause: unknown;
    },
  ) {
    super(`${units} of ${plural(of, "unit")}`, { cause });
    this.units = units;
  }
}

/** How a command ended. */
export interface Fault {
  readonly code: Exclude<keyof typeof EXIT, "done" | "killed">;
  /** One line. */
  readonly message: string;
  /** For a fault of Sluice itself: where it happened. */
  readonly stack?: string;
  /** A checkpoint that was finished before. */
  readonly kept?: Pick<CheckpointStays, "checkpoint" | "next">;
}

/**
 * Describe what stopped a command.
 *
 * @param knows Whether the command has a flag: options are named as it takes them.
 */
export function describeFault(
  error: unknown,
  knows: (flag: string) => boolean = () => false,
): Fault {
  // Cleaning up failed too: what came first is what counts.
  if (error instanceof SuppressedError) return describeFault(error.suppressed, knows);
  if (error instanceof CheckpointStays) {
    const { checkpoint, next } = error;
    const fault = describeFault(error.cause, knows);
    const message = fault.code === "interrupted" ? "Stopped." : fault.message;
    return { ...fault, message, kept: { checkpoint, next } };
  }
  if (error instanceof GoesOn) {
    const fault = describeFault(error.cause, knows);
    const message = fault.code === "interrupted" ? "Stopped." : fault.message;
    return { ...fault, message: `${message} ${error.next}` };
  }
  const forbidden = permissionSentence(error);
  if (forbidden !== undefined) return { code: "request", message: forbidden };
  if (error instanceof Interrupted) {
    const message =
      "Stopped. Nothing was left behind; the same command starts again from the beginning.";
    return { code: "interrupted", message };
  }
  if (error instanceof JobsFailed) return { code: error.code, message: error.message };
  const code = codeOf(error);
  if (code === undefined) {
    return {
      code: "bug",
      message: "This is a fault in Sluice. Please report it with the lines below.",
      stack: error instanceof Error ? error.stack ?? String(error) : String(error),
    };
  }
  // Messages of the library may end without a full stop.
  const message = visibleMessage(withFlags((error as Error).message, knows))
    .replace(/(?<![.!?])$/, ".");
  return { code, message };
}

function codeOf(error: unknown): Fault["code"] | undefined {
  if (error instanceof RequestError || error instanceof UnsupportedError) return "request";
  if (error instanceof CheckpointError) return "checkpoint";
  if (error instanceof DeviceError) return "device";
  if (error instanceof HubError) return "hub";
  if (error instanceof SpaceError) return "space";
  const system = Object.values(Deno.errors).some((kind) => error instanceof kind);
  return system ? "space" : undefined;
}

/** Deno's refusal, here or in what caused the error, with the flag that is missing. */
function permissionSentence(error: unknown): string | undefined {
  for (let at = error; at instanceof Error; at = at.cause) {
    if (!(at instanceof Deno.errors.NotCapable)) continue;
    const [, what, where, flag] =
      /^Requires (.+?) access(?: to (.+?))?, run again with the --allow-(\w+) flag/.exec(
        at.message,
      ) ?? [];
    if (flag === undefined) return visibleMessage(at.message);
    const target = where?.replace(/^"(.*)"$/, "$1");
    const value = target === undefined || target.startsWith("<")
      ? ""
      : `=${/^[\w./:@+-]+$/.test(target) ? target : `"${target}"`}`;
    return visibleMessage(
      `Deno does not allow ${what} access${target === undefined ? "" : ` to ${where}`}: ` +
        `add --allow-${flag}${value} after "deno run".`,
    );
  }
  return undefined;
}

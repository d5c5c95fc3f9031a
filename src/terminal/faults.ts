/** From an exception to one sentence and an exit code. */
import {
  CheckpointError,
  DeviceError,
  HubError,
  RequestError,
  SpaceError,
  UnsupportedError,
} from "../errors.ts";
import { visibleMessage } from "./text.ts";

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

/** How a command ended. */
export interface Fault {
  readonly code: number;
  /** One line. */
  readonly message: string;
  /** For a fault of Sluice itself: where it happened. */
  readonly stack?: string;
}

/** Describe what stopped a command. */
export function describeFault(error: unknown): Fault {
  // Cleaning up failed too: what came first is what counts.
  if (error instanceof SuppressedError) return describeFault(error.suppressed);
  const forbidden = permissionSentence(error);
  if (forbidden !== undefined) return { code: EXIT.request, message: forbidden };
  if (error instanceof Interrupted) return { code: EXIT.interrupted, message: error.message };
  const code = codeOf(error);
  if (code === undefined) {
    return {
      code: EXIT.bug,
      message: "This is a fault in Sluice. Please report it with the lines below.",
      stack: error instanceof Error ? error.stack ?? String(error) : String(error),
    };
  }
  // Messages of the library may end without a full stop.
  const message = visibleMessage((error as Error).message).replace(/(?<![.!?])$/, ".");
  return { code, message };
}

function codeOf(error: unknown): number | undefined {
  if (error instanceof RequestError || error instanceof UnsupportedError) return EXIT.request;
  if (error instanceof CheckpointError) return EXIT.checkpoint;
  if (error instanceof DeviceError) return EXIT.device;
  if (error instanceof HubError) return EXIT.hub;
  if (error instanceof SpaceError) return EXIT.space;
  const system = Object.values(Deno.errors).some((kind) => error instanceof kind);
  return system ? EXIT.space : undefined;
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

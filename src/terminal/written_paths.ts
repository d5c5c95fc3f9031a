/**
 * The files that a run writes when its work is done: tried before it begins, since hours may lie
 * between.
 */
import { resolve, sep } from "node:path";
import { quote, RequestError } from "../errors.ts";
import type { Command, Host, ParsedArguments } from "./command.ts";

/**
 * See that the files that flags name can be written, and leave everything as it was.
 *
 * @param options.output The folder of the checkpoint, which is published as it is, and replaced as
 *   a whole.
 * @throws {RequestError} one is a folder, in a folder that is not there, in the checkpoint's, or
 *   named twice.
 * @throws {SpaceError} the system refuses one.
 */
export async function tryPaths(
  { flags }: Command,
  { parsed, output, host }: {
    readonly parsed: ParsedArguments;
    readonly output: string | undefined;
    readonly host: Host;
  },
): Promise<void> {
  const taken = new Map<string, string>();
  for (const { name } of flags.filter(({ writes }) => writes)) {
    const path = parsed.get(name);
    if (typeof path !== "string") continue;
    const place = resolve(path);
    const refuse = (found: string): never => {
      throw new RequestError(
        `Cannot use --${name} ${quote(path)}: ${found}. Give another place.`,
      );
    };
    if (output !== undefined && `${place}${sep}`.startsWith(`${resolve(output)}${sep}`)) {
      refuse("the checkpoint goes there, which is published as it is");
    }
    const other = taken.get(place);
    if (other !== undefined) refuse(`--${other} names the same file`);
    taken.set(place, name);
    await host.tryWrite(path);
  }
}

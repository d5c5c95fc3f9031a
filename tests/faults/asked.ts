/** What `deno task test:faults` is asked for: its flags, and which cases of a suite they choose. */
import { parseArgs } from "node:util";
import { quote, RequestError } from "../../src/errors.ts";

/** What `--help` prints. */
export const USAGE = `deno task test:faults [--seed N] [--only ID[:INDEX]]

  --seed N            a whole number that all that is drawn comes of (1)
  --only ID[:INDEX]   one suite, or one case of it: D3, D3:0
  --help              this text
`;

/** What is run. */
export interface Asked {
  readonly help: boolean;
  readonly seed: number;
  /** The only suite; absent: all. */
  readonly only?: string;
  /** The only case of it, as it was written. */
  readonly index?: string;
}

/**
 * Read the command line.
 *
 * @param ids Every suite.
 * @param counted Those whose cases have an index.
 * @throws {RequestError} a flag is unknown, or its value is wrong.
 */
export function asked(
  args: readonly string[],
  ids: readonly string[],
  counted: readonly string[],
): Asked {
  const { help, seed, only } = flagsOf(args);
  if (!/^-?\d+$/.test(seed) || !Number.isSafeInteger(Number(seed))) {
    throw new RequestError(`Cannot use --seed ${quote(seed)}: it must be a whole number.`);
  }
  if (only === undefined) return { help, seed: Number(seed) };
  const [, id, index] = /^([^:]*)(?::(.*))?$/s.exec(only)!;
  if (!ids.includes(id!)) {
    throw new RequestError(
      `Cannot use --only ${quote(only)}: the suite must be one of ${ids.join(", ")}.`,
    );
  }
  if (index === undefined) return { help, seed: Number(seed), only: id! };
  if (!counted.includes(id!)) {
    throw new RequestError(
      `Cannot use --only ${quote(only)}: ${id} is run as a whole, --only ${id}. ` +
        `Those with cases of their own are ${counted.join(", ")}.`,
    );
  }
  return { help, seed: Number(seed), only: id!, index };
}

function flagsOf(args: readonly string[]) {
  try {
    const { values } = parseArgs({
      args: [...args],
      options: {
        help: { type: "boolean", default: false },
        seed: { type: "string", default: "1" },
        only: { type: "string" },
      },
    });
    return values;
  } catch (cause) {
    if (!(cause instanceof TypeError)) throw cause;
    const [sentence] = cause.message.split(/\.?(?: To specify|\n|$)/);
    throw new RequestError(`Cannot read the command line: ${sentence}. See --help.`, { cause });
  }
}

/**
 * The cases of a suite of `count` that are run.
 *
 * @throws {RequestError} it has no case of the index that was asked for.
 */
export function chosenOf({ only, index }: Asked, count: number): number[] {
  if (index === undefined) return Array.from({ length: count }, (_, i) => i);
  if (/^\d+$/.test(index) && Number(index) < count) return [Number(index)];
  throw new RequestError(
    `Cannot use --only ${quote(`${only}:${index}`)}: ${only} has ${count} cases, 0 to ${
      count - 1
    }.`,
  );
}

/**
 * One of several processes that make the same output at the same moment: `deno run -A rival.ts
 * JSON`. It says that it is ready, waits for a line, and tells whether it made the output or with
 * what it was refused.
 */
import { openWasm } from "../../src/backends/wasm/mod.ts";
import { RequestError } from "../../src/errors.ts";
import { attempt, interrupt } from "../resume_given.ts";
import { ROUNDED } from "./suite.ts";

/** What such a process is to do. */
export interface Given {
  readonly out: string;
  /** Whether the file system grants every lock, whoever else has it, as some clusters' do. */
  readonly lockless: boolean;
  /** Stop after so many saves. */
  readonly stop?: number;
}

/** What became of it: absent where it made the output. */
export interface Told {
  readonly refused?: string;
}

async function main({ out, lockless, stop }: Given): Promise<Told> {
  if (lockless) Deno.FsFile.prototype.tryLock = () => Promise.resolve(true);
  await using backend = await openWasm({ threads: 1 });
  print("ready");
  await Deno.stdin.read(new Uint8Array(1));
  const work = { ...ROUNDED, backend, out };
  try {
    await (stop === undefined ? attempt(work) : interrupt(work, stop));
    return {};
  } catch (error) {
    if (error instanceof RequestError) return { refused: error.message };
    throw error;
  }
}

function print(line: string): void {
  Deno.stdout.writeSync(new TextEncoder().encode(`${line}\n`));
}

if (import.meta.main) print(JSON.stringify(await main(JSON.parse(Deno.args[0]!) as Given)));

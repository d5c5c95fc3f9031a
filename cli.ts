/**
 * The program `sluice`: finds the command, runs it, and makes a sentence and an exit code of what stops it. Commands are in
 * src/terminal/commands/; nothing here knows of quantization.
 *
 * Exit codes: 0 done · 1 wrong request · 2 bad checkpoint · 3 device · 4 Hub or network · 5 disk · 70 a fault of Sluice · 75 interrupted, the same
 * command starts again · 130 interrupted twice.
 *
 * @module
 */
import { resourceUsage } from "node:process";
import denoJson from "./deno.json" with { type: "json" };
import type { Host, TextStream } from "./src/terminal/command.ts";
import { COMMANDS } from "./src/terminal/commands/mod.ts";
import { RequestError } from "./src/errors.ts";
import { describeFault, EXIT, Interrupted } from "./src/terminal/faults.ts";
import { parseArguments } from "./src/terminal/parser.ts";

/** Run one command line (without the program's name); the exit code. Never throws, never exits. */
export async function main(words: readonly string[], host: Host): Promise<number> {
  try {
    const parsed = await parseArguments(words, COMMANDS, host);
    if (parsed) await parsed.command.run(parsed.said, host);
    return EXIT.done;
  } catch (error) {
    return fail(error, host);
  }
}

/** Say what went wrong; the exit code. */
function fail(error: unknown, { err }: Pick<Host, "err">): number {
  const { code, message, stack } = describeFault(error);
  err.write(`sluice: ${message}\n${stack === undefined ? "" : `${stack}\n`}`);
  return code;
}

/** The world as Deno shows it. */
export function denoHost(signal: AbortSignal): Host {
  return {
    out: denoStream(Deno.stdout),
    err: denoStream(Deno.stderr),
    colors: !Deno.noColor,
    signal,
    version: denoJson.version,
    // The kernel keeps the highest value; a sample could miss it.
    residentBytes: () => resourceUsage().maxRSS * 1024,
    currentBytes: () => Deno.memoryUsage().rss,
    async readText(path) {
      try {
        return await Deno.readTextFile(path);
      } catch (cause) {
        if (!(cause instanceof Deno.errors.NotFound)) throw cause;
        throw new RequestError(`Cannot read "${path}": there is no such file.`, { cause });
      }
    },
    async readTextIfAny(path) {
      try {
        return await Deno.readTextFile(path);
      } catch (error) {
        const { NotFound, NotCapable, PermissionDenied } = Deno.errors;
        if ([NotFound, NotCapable, PermissionDenied].some((kind) => error instanceof kind)) {
          return undefined;
        }
        throw error;
      }
    },
    confirm: (question) => Deno.stdin.isTerminal() ? confirm(question) : undefined,
    env(variable) {
      const { state } = Deno.permissions.querySync({ name: "env", variable });
      return state === "granted" ? Deno.env.get(variable) : undefined;
    },
    async writeText(path, text) {
      await Deno.writeTextFile(path, text);
    },
    openLog(path) {
      const file = Deno.openSync(path, { append: true, create: true });
      return {
        write: (line) => writeAll(file, line),
        [Symbol.dispose]: () => file.close(),
      };
    },
    async temporaryFolder() {
      const path = await Deno.makeTempDir({ prefix: "sluice-" });
      return { path, [Symbol.asyncDispose]: () => Deno.remove(path, { recursive: true }) };
    },
  };
}

interface Writer {
  writeSync(bytes: Uint8Array): number;
}

function denoStream(stream: Writer & { isTerminal(): boolean }): TextStream {
  let open = true;
  return {
    isTerminal: stream.isTerminal(),
    get columns() {
      return stream.isTerminal() ? Deno.consoleSize().columns : 80;
    },
    write(text) {
      if (!open) return;
      try {
        writeAll(stream, text);
      } catch (error) {
        // Whoever read this has stopped reading, as `head` does; the work goes on.
        if (!(error instanceof Deno.errors.BrokenPipe)) throw error;
        open = false;
      }
    },
  };
}

function writeAll(writer: Writer, text: string): void {
  const bytes = new TextEncoder().encode(text);
  for (let done = 0; done < bytes.length;) done += writer.writeSync(bytes.subarray(done));
}

/** Stop at the first Ctrl-C after the slice at hand, at the second at once. */
function listen(stop: AbortController): void {
  const interrupt = () => {
    if (stop.signal.aborted) Deno.exit(EXIT.killed);
    stop.abort(
      new Interrupted(
        "Stopped. Nothing was left behind; the same command starts again from the beginning.",
      ),
    );
  };
  Deno.addSignalListener("SIGINT", interrupt);
  if (Deno.build.os !== "windows") Deno.addSignalListener("SIGTERM", interrupt);
}

/**
 * Vulkan's layers look for a screen where this variable says, and complain on standard error,
 * whatever --quiet says, where it says nothing. No screen is needed here, so it is made to say a
 * place that holds none and where nobody can put one.
 */
function lookForNoScreen(): void {
  const variable = "XDG_RUNTIME_DIR";
  if (Deno.build.os !== "linux") return;
  if (Deno.permissions.querySync({ name: "env", variable }).state !== "granted") return;
  if (!Deno.env.get(variable)?.startsWith("/")) Deno.env.set(variable, "/dev/null");
}

if (import.meta.main) {
  lookForNoScreen();
  const stop = new AbortController();
  listen(stop);
  // A failure that nobody waited for stops the run as Ctrl-C does, so that it cleans up.
  const stray: unknown[] = [];
  globalThis.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    stray.push(event.reason);
    stop.abort(event.reason);
  });
  const host = denoHost(stop.signal);
  const code = await main(Deno.args, host);
  Deno.exit(code === EXIT.done && stray.length > 0 ? fail(stray[0], host) : code);
}

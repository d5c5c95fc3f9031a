/**
 * The program `sluice`: finds the command, runs it, and makes a sentence and an exit code of what
 * stops it. Commands are in src/terminal/commands/; nothing here knows of quantization.
 *
 * Exit codes: 0 done · 1 wrong request · 2 bad checkpoint · 3 device · 4 Hub or network · 5 disk ·
 * 70 a fault of Sluice · 75 interrupted, the same command goes on · 130 interrupted twice.
 *
 * @module
 */
import { resourceUsage } from "node:process";
import denoJson from "./deno.json" with { type: "json" };
import type { Command, Host, TextStream } from "./src/terminal/command.ts";
import { COMMANDS } from "./src/terminal/commands/mod.ts";
import { attempt } from "./src/io/system_faults.ts";
import { openTemporary, sweepTemporary } from "./src/io/temporary.ts";
import { openLog, readText, tryWrite, writeAll, writeText } from "./src/io/text_files.ts";
import { describeFault, EXIT, Interrupted, ReaderGone } from "./src/terminal/faults.ts";
import { jsonLine } from "./src/terminal/json.ts";
import { parseArguments } from "./src/terminal/parser.ts";
import { PatientStream } from "./src/terminal/streams.ts";

/** Run one command line (without the program's name); the exit code. Never throws, never exits. */
export async function main(words: readonly string[], host: Host): Promise<number> {
  const command = await commandOf(words);
  const patient = command?.leaves ? new PatientStream(host.out) : undefined;
  try {
    const parsed = await parseArguments(words, COMMANDS, host);
    if (parsed) await parsed.command.run(parsed.given, patient ? { ...host, out: patient } : host);
    patient?.check();
    return EXIT.done;
  } catch (error) {
    return await fail(error, words, host);
  }
}

async function commandOf(words: readonly string[]): Promise<Command | undefined> {
  return await COMMANDS.find(({ name }) => words.includes(name))?.load();
}

/** Say what went wrong, to a program too; the exit code. */
async function fail(
  error: unknown,
  words: readonly string[],
  { err, out }: Pick<Host, "err" | "out">,
): Promise<number> {
  // As tools do whose reader has seen enough.
  if (error instanceof ReaderGone) return EXIT.done;
  const command = await commandOf(words);
  const { code, message, stack, kept } = describeFault(
    error,
    (flag) => command?.flags.some(({ name }) => name === flag) === true,
  );
  const status = EXIT[code];
  const lines = [
    `sluice: ${message}`,
    ...(stack === undefined ? [] : [stack]),
    ...(kept ? [`sluice: The checkpoint stays in ${kept.checkpoint}`] : []),
    ...(kept?.next === undefined ? [] : [`sluice: To publish it:  ${kept.next}`]),
  ];
  err.write(`${lines.join("\n")}\n`);
  if (words.includes("--json")) {
    const { checkpoint = null, next = null } = kept ?? {};
    new PatientStream(out).write(
      jsonLine({ type: "error", code, exitStatus: status, message, checkpoint, next }),
    );
  }
  return status;
}

/** The world as Deno shows it. */
export function denoHost(signal: AbortSignal): Host {
  return {
    out: denoStream(Deno.stdout, "standard output"),
    err: new PatientStream(denoStream(Deno.stderr, "standard error")),
    colors: !Deno.noColor,
    signal,
    version: denoJson.version,
    // The kernel keeps the highest value; a sample could miss it.
    residentBytes: () => resourceUsage().maxRSS * 1024,
    currentBytes: () => Deno.memoryUsage().rss,
    machineBytes() {
      const asking = { name: "sys", kind: "systemMemoryInfo" } as const;
      const { state } = Deno.permissions.querySync(asking);
      return state === "granted" ? Deno.systemMemoryInfo().total : undefined;
    },
    readText,
    async readTextIfAny(path) {
      return await attempt("read", path, async () => {
        try {
          return await Deno.readTextFile(path);
        } catch (error) {
          const { NotFound, NotCapable, PermissionDenied } = Deno.errors;
          if ([NotFound, NotCapable, PermissionDenied].some((kind) => error instanceof kind)) {
            return undefined;
          }
          throw error;
        }
      });
    },
    asks: Deno.stdin.isTerminal(),
    confirm: (question) => confirm(question),
    env(variable) {
      const { state } = Deno.permissions.querySync({ name: "env", variable });
      return state === "granted" ? Deno.env.get(variable) : undefined;
    },
    writeText,
    tryWrite,
    openLog,
    temporaryFolder: () => openTemporary(),
    async sweepTemporary(report) {
      const names = Deno.build.os === "windows" ? ["TMP", "TEMP"] : ["TMPDIR"];
      await sweepTemporary(names.map((name) => this.env(name)).find(Boolean) ?? "/tmp", report);
    },
  };
}

function denoStream(stream: typeof Deno.stdout, name: string): TextStream {
  return {
    isTerminal: stream.isTerminal(),
    get columns() {
      return stream.isTerminal() ? Deno.consoleSize().columns : 80;
    },
    write(text) {
      try {
        writeAll(stream, text, name);
      } catch (error) {
        const gone = error instanceof Error && error.cause instanceof Deno.errors.BrokenPipe;
        throw gone ? new ReaderGone(error.message, { cause: error }) : error;
      }
    },
  };
}

/**
 * Stop at the first Ctrl-C as soon as what is finished is kept, at the second at once; so when told
 * to end, and the first alone when the terminal is closed.
 */
function listen(stop: AbortController, err: TextStream): void {
  const interrupt = () => stop.abort(new Interrupted());
  // Asked before the first listener: with that, Deno takes over SIGHUP too.
  const outlives = Deno.build.os !== "windows" && ignoresHangup();
  const insist = () => {
    if (stop.signal.aborted) {
      // A bar may have hidden the cursor, and stands in the line.
      if (err.isTerminal) err.write("\u001b[?25h\n");
      Deno.exit(EXIT.killed);
    }
    // A bar makes way first.
    interrupt();
    // What is finished may have to be saved first, or be finished.
    err.write("sluice: Stopping. Once more stops at once.\n");
  };
  Deno.addSignalListener("SIGINT", insist);
  if (Deno.build.os === "windows") return;
  Deno.addSignalListener("SIGTERM", insist);
  // A terminal that is closed may say so twice.
  Deno.addSignalListener("SIGHUP", outlives ? () => {} : interrupt);
}

/** Whether the program was started to outlive its terminal, as `nohup` starts one. */
function ignoresHangup(): boolean {
  try {
    const [, mask] = /^SigIgn:\s*([0-9a-f]+)$/m.exec(
      Deno.readTextFileSync("/proc/self/status"),
    ) ?? [];
    if (mask !== undefined) return (BigInt(`0x${mask}`) & 1n) === 1n;
  } catch (error) {
    const { NotCapable, NotFound } = Deno.errors;
    if (!(error instanceof NotCapable || error instanceof NotFound)) throw error;
  }
  // Where the system does not tell: `nohup` takes both streams off the terminal.
  return !Deno.stdout.isTerminal() && !Deno.stderr.isTerminal();
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
  const host = denoHost(stop.signal);
  listen(stop, host.err);
  // A failure that nobody waited for stops the run as Ctrl-C does, so that it cleans up.
  const stray: unknown[] = [];
  globalThis.addEventListener("unhandledrejection", (event) => {
    event.preventDefault();
    stray.push(event.reason);
    stop.abort(event.reason);
  });
  const code = await main(Deno.args, host);
  Deno.exit(
    code === EXIT.done && stray.length > 0 ? await fail(stray[0], Deno.args, host) : code,
  );
}

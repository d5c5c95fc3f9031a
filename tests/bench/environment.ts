/**
 * What a benchmark finds on the machine it runs on: a model, a Python with rivals in it, a BLAS.
 * What is not there is told as a sentence, for its rows are skipped.
 */
import { describeBlas, openBlas } from "../../src/backends/wasm/blas.ts";
import { DeviceError } from "../../src/errors.ts";
import type { Skipped } from "./measure.ts";

/** The folder of the model that SLUICE_BENCH_MODEL names. */
export async function findModel(): Promise<{ readonly model: string } | Skipped> {
  const model = Deno.env.get("SLUICE_BENCH_MODEL");
  if (!model) return { skipped: "SLUICE_BENCH_MODEL names no folder with a model." };
  try {
    await Deno.stat(model);
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    return { skipped: `SLUICE_BENCH_MODEL names ${model}, and there is nothing there.` };
  }
  return { model };
}

const MISSING = `import importlib.util, json, sys
print(json.dumps([name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]))`;

/** The Python that SLUICE_BENCH_PYTHON names, if it has these packages. */
export async function findPython(
  ...packages: readonly string[]
): Promise<{ readonly python: string } | Skipped> {
  const python = Deno.env.get("SLUICE_BENCH_PYTHON");
  const wanted = packages.join(" and ");
  if (!python) return { skipped: `SLUICE_BENCH_PYTHON names no Python that has ${wanted}.` };
  let missing;
  try {
    missing = await printed(python, ["-c", MISSING, ...packages]) as string[];
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
    return { skipped: `SLUICE_BENCH_PYTHON names ${python}, and there is no such program.` };
  }
  if (missing.length === 0) return { python };
  return { skipped: `The Python ${python} (SLUICE_BENCH_PYTHON) has no ${missing.join(", ")}.` };
}

/** Nothing of a rival's is fetched, and its progress is not printed. */
const QUIET = {
  HF_HUB_OFFLINE: "1",
  TQDM_DISABLE: "1",
  HF_HUB_DISABLE_PROGRESS_BARS: "1",
  TRANSFORMERS_VERBOSITY: "error",
};

const scriptPath = (script: string) => new URL(script, import.meta.url).pathname;

/** Run a script of this folder; what its last line says, in JSON. */
export async function runScript(
  python: string,
  script: string,
  args: readonly string[],
): Promise<unknown> {
  return await printed(python, [scriptPath(script), ...args]);
}

async function printed(python: string, args: string[]): Promise<unknown> {
  const { success, stdout, stderr } = await new Deno.Command(python, { args, env: QUIET }).output();
  const text = (bytes: Uint8Array) => new TextDecoder().decode(bytes).trim();
  if (!success) throw new Error(`${python} ${args[0]} failed: ${text(stderr)}`);
  return JSON.parse(text(stdout).split("\n").at(-1)!);
}

/**
 * A Python process that answers each line with a line of JSON, so that a rival can take turns with
 * Sluice. Its first line says that it is ready.
 */
export class PythonServer implements AsyncDisposable {
  readonly #child: Deno.ChildProcess;
  readonly #errors: Promise<string>;
  readonly #reader: ReadableStreamDefaultReader<string>;
  readonly #writer: WritableStreamDefaultWriter<Uint8Array>;
  #rest = "";

  private constructor(child: Deno.ChildProcess) {
    this.#child = child;
    this.#errors = new Response(child.stderr).text();
    this.#reader = child.stdout.pipeThrough(new TextDecoderStream()).getReader();
    this.#writer = child.stdin.getWriter();
  }

  /** Start a script of this folder and wait until it is ready. */
  static async start(
    python: string,
    script: string,
    args: readonly string[],
  ): Promise<PythonServer> {
    const child = new Deno.Command(python, {
      args: [scriptPath(script), ...args],
      env: QUIET,
      stdin: "piped",
      stdout: "piped",
      stderr: "piped",
    }).spawn();
    const server = new PythonServer(child);
    await server.#answer(`started ${script}`);
    return server;
  }

  /** What it answers to a line. */
  async ask(line: string): Promise<unknown> {
    await this.#writer.write(new TextEncoder().encode(`${line}\n`));
    return await this.#answer(`was asked to ${line}`);
  }

  async #answer(when: string): Promise<unknown> {
    while (!this.#rest.includes("\n")) {
      const { value, done } = await this.#reader.read();
      if (done) throw new Error(`A rival's Python ended when it ${when}: ${await this.#errors}`);
      this.#rest += value;
    }
    const end = this.#rest.indexOf("\n");
    const line = this.#rest.slice(0, end);
    this.#rest = this.#rest.slice(end + 1);
    return JSON.parse(line);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#writer.close();
    await this.#reader.cancel();
    await this.#child.status;
    await this.#errors;
  }
}

/** Open a device, which may not be there. */
export async function openPresent<T extends object>(open: () => Promise<T>): Promise<T | Skipped> {
  try {
    return await open();
  } catch (error) {
    if (!(error instanceof DeviceError && error.kind === "absent")) throw error;
    return { skipped: error.message };
  }
}

/** The BLAS that `openBackend` takes on this machine, in words; absent where there is none. */
export function blasHere(): string | undefined {
  using blas = openBlas("auto").blas;
  return blas && describeBlas(blas);
}

/** `CPU, 2 threads, OpenBLAS 0.3.21 (SkylakeX)` */
export function cpuName(threads: number, blas?: string): string {
  return `CPU, ${threads} thread${threads === 1 ? "" : "s"}${blas ? `, ${blas}` : ""}`;
}

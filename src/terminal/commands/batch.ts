/**
 * `sluice batch`: many quantizations one after another. One that fails does not stop the others;
 * what is done already is not done again; a table tells in the end what became of each.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { quote, RequestError } from "../../errors.ts";
import { isObject, parseObject } from "../../json.ts";
import type { RunRecord } from "../../report/record.ts";
import { size } from "../../size.ts";
import { type BatchFile, type Job, parseBatch } from "../batch_file.ts";
import type { Command, Host, ParsedArguments } from "../command.ts";
import { describeFault, JobsFailed, RunStays } from "../faults.ts";
import { jsonLine } from "../json.ts";
import { parseArguments } from "../parser.ts";
import { table } from "../table.ts";
import { duration, plural, visible } from "../text.ts";
import { askedBits } from "./bits.ts";
import { readRecipe } from "./flags.ts";
import { MESSAGE_FLAGS } from "./messages.ts";
import { recordIn } from "./made_before.ts";
import { askedOutputs } from "./output_folders.ts";
import { quantizeCommand } from "./quantize.ts";

/** What was done before, beside the outputs. */
const STATE_FILE = "batch.json";

/** `sluice batch FILE` */
export const batchCommand: Command = {
  arguments: [{
    name: "file",
    help: "models, recipes and an output folder, in YAML or JSON: see the README",
  }],
  flags: [
    {
      name: "dry-run",
      type: "boolean",
      help: "show the plan of each and stop",
      default: false,
      group: "Output",
    },
    ...MESSAGE_FLAGS.filter(({ name }) => name !== "log-file"),
  ],
  examples: [
    ["batch models.yaml", "every model by every recipe, and a table in the end"],
    ["batch models.yaml --dry-run", "what it would make, without reading a weight"],
  ],
  leaves: true,
  run: batch,
};

/** How a job ended. */
interface Ended {
  readonly job: Job;
  readonly state: "done" | "done before" | "stopped" | "failed" | "not begun";
  readonly seconds?: number;
  readonly message?: string;
  /** Of each output, by its name; of a job with one, by none. */
  readonly records?: Records | undefined;
}

type Records = ReadonlyMap<string | undefined, RunRecord>;

async function batch(parsed: ParsedArguments, host: Host): Promise<void> {
  const [file] = parsed.arguments as [string];
  const asked = parseBatch(await host.readText(file), file);
  const isDry = parsed.get("dry-run") === true;
  const commands: ParsedJob[] = [];
  // Nothing begins before every command line is right.
  for (const job of asked.jobs) commands.push(await parsedJob(job, asked, { parsed, host }));
  const state = await readState(asked, host);
  const ended: Ended[] = [];
  const codes: JobsFailed["code"][] = [];
  for (const [i, job] of asked.jobs.entries()) {
    const { given, folders } = commands[i]!;
    const key = keyOf(job, host);
    if (!isDry && state.get(job.name) === key) {
      const records = await recordsOf(folders, host);
      if (records) {
        ended.push({ job, state: "done before", records });
        continue;
      }
    }
    if (host.signal.aborted) {
      ended.push({ job, state: "not begun" });
      continue;
    }
    if (!parsed.get("quiet")) {
      const what = `${visible(job.model)}, ${visible(job.recipe)}`;
      host.err.write(`sluice: ${i + 1} of ${asked.jobs.length}: ${what}\n`);
    }
    const began = performance.now();
    try {
      await quantizeCommand.run(given, jobHost(job, { parsed, host, isDry }));
      const seconds = (performance.now() - began) / 1000;
      ended.push({ job, state: "done", seconds, records: await recordsOf(folders, host) });
      if (isDry) continue;
      state.set(job.name, key);
      await host.writeText(
        join(asked.output, STATE_FILE),
        `${JSON.stringify({ version: 1, jobs: Object.fromEntries(state) }, null, 1)}\n`,
      );
    } catch (error) {
      if (host.signal.aborted) {
        ended.push({ job, state: error instanceof RunStays ? "stopped" : "not begun" });
        continue;
      }
      const knows = (flag: string) => quantizeCommand.flags.some(({ name }) => name === flag);
      const { code, message, stack } = describeFault(error, knows);
      codes.push(code);
      ended.push({ job, state: "failed", message });
      host.err.write(`sluice: ${message}\n${stack === undefined ? "" : `${stack}\n`}`);
    }
  }
  if (!isDry) tell(ended, { parsed, host });
  if (host.signal.aborted) {
    throw new JobsFailed("Stopped. What is done stays; the same command goes on.", "interrupted");
  }
  if (codes.length === 0) return;
  const [first] = codes as [typeof codes[0]];
  throw new JobsFailed(
    `${plural(codes.length, "job")} of ${ended.length} failed; the same command tries them again.`,
    codes.every((code) => code === first) ? first : "request",
  );
}

/** A job's command, and where it writes. */
interface ParsedJob {
  readonly given: ParsedArguments;
  /** The folder of each output, by its name; of a job with one, by none. */
  readonly folders: ReadonlyMap<string | undefined, string>;
}

/** @throws {RequestError} the flags are none of `quantize`. */
async function parsedJob(
  { name, words }: Job,
  { output }: BatchFile,
  { parsed, host }: { readonly parsed: ParsedArguments; readonly host: Host },
): Promise<ParsedJob> {
  const more = ["json", "quiet", "dry-run"].filter((flag) => parsed.get(flag) === true);
  const row = { name: "quantize", summary: "", load: () => Promise.resolve(quantizeCommand) };
  try {
    const found = await parseArguments(
      ["quantize", ...words, "--output", join(output, name), ...more.map((flag) => `--${flag}`)],
      [row],
      host,
    );
    const { given } = found!;
    const outputs = await askedOutputs(given, host);
    if (!outputs) await readRecipe(given, host);
    askedBits(given);
    const folders = outputs?.map(({ name, path }) => [name, path] as const) ??
      [[undefined, join(output, name)] as const];
    return { given, folders: new Map(folders) };
  } catch (error) {
    if (!(error instanceof RequestError)) throw error;
    throw new RequestError(`Cannot run ${quote(name)} of the batch: ${error.message}`, {
      cause: error,
    });
  }
}

/** The world as a job sees it: what it prints is told by the table, or line by line as JSON. */
function jobHost(
  { name }: Job,
  { parsed, host, isDry }: {
    readonly parsed: ParsedArguments;
    readonly host: Host;
    readonly isDry: boolean;
  },
): Host {
  const write = parsed.get("json")
    ? (text: string) => {
      for (const line of text.split("\n").filter(Boolean)) {
        host.out.write(jsonLine({ type: "job", job: name, line: JSON.parse(line) }));
      }
    }
    : isDry
    ? (text: string) => host.out.write(text)
    : () => {};
  return { ...host, out: { ...host.out, isTerminal: false, columns: 80, write } };
}

/** What a job's output depends on, as a hash. */
function keyOf({ words }: Job, { version }: Host): string {
  return createHash("sha256").update(JSON.stringify([version, words])).digest("hex");
}

/** Keys of jobs that were done before, by name. */
async function readState({ output }: BatchFile, host: Host): Promise<Map<string, string>> {
  const path = join(output, STATE_FILE);
  const text = await host.readTextIfAny(path);
  if (text === undefined) return new Map();
  const root = parseObject(text);
  if (root?.version !== 1 || !isObject(root.jobs)) {
    throw new RequestError(
      `Cannot go on with the batch: ${quote(path)} is not what a batch of this version wrote. ` +
        "Give another `output`, or remove that file.",
    );
  }
  return new Map(Object.entries(root.jobs).map(([name, key]) => [name, String(key)]));
}

/** The records of a job's outputs, if all are there. */
async function recordsOf(
  folders: ParsedJob["folders"],
  host: Host,
): Promise<Records | undefined> {
  const records = new Map<string | undefined, RunRecord>();
  for (const [name, folder] of folders) {
    const record = await recordIn(folder, host);
    if (!record) return undefined;
    records.set(name, record);
  }
  return records;
}

/** What became of all. */
function tell(
  ended: readonly Ended[],
  { parsed, host }: { readonly parsed: ParsedArguments; readonly host: Host },
): void {
  const rows = ended.flatMap(({ records = new Map([[undefined, undefined]]), ...how }) =>
    [...records].map(([output, record]) => ({ ...how, output, record }))
  );
  const facts = rows.map(({ job, state, seconds, message, output, record }) => ({
    job: job.name,
    output: output ?? null,
    model: job.model,
    recipe: job.recipe,
    state,
    seconds: seconds ?? null,
    message: message ?? null,
    bitsPerWeight: record?.bits_per_weight ?? null,
    bytes: record?.total_bytes ?? null,
    divergence: record?.scores.divergence?.mean ?? null,
    perplexity: record?.scores.perplexity?.perplexity ?? null,
  }));
  if (parsed.get("json")) return host.out.write(jsonLine({ type: "result", jobs: facts }));
  const right = (head: string) => ({ head, align: "right" as const });
  host.out.write(table(
    [
      ...["JOB", "MODEL", "ENDED"].map((head) => ({ head })),
      ...["BITS", "SIZE", "KL", "PERPLEXITY", "TIME"].map(right),
    ],
    facts.map((fact) => [
      visible(fact.output === null ? fact.job : `${fact.job}/${fact.output}`),
      visible(fact.model),
      fact.state,
      fact.bitsPerWeight?.toFixed(3) ?? "",
      fact.bytes === null ? "" : size(fact.bytes),
      fact.divergence?.toPrecision(3) ?? "",
      fact.perplexity?.toFixed(3) ?? "",
      fact.seconds === null ? "" : duration(fact.seconds),
    ]),
  ));
}

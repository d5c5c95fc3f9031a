/**
 * `sluice batch`: many quantizations one after another. One that fails does not stop the others;
 * what is done already is not done again; a table tells in the end what became of each.
 */
import { createHash } from "node:crypto";
import { join } from "node:path";
import { quote, RequestError } from "../../errors.ts";
import { disk } from "../../io/disk.ts";
import { open } from "../../open.ts";
import type { RunRecord } from "../../report/record.ts";
import { size } from "../../size.ts";
import { type BatchFile, type Job, parseBatch } from "../batch_file.ts";
import { BatchState, type JobKey } from "../batch_state.ts";
import type { Command, Host, ParsedArguments } from "../command.ts";
import { describeFault, GoesOn, JobsFailed } from "../faults.ts";
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
  const state = await BatchState.read(asked.output, host);
  const otherOutputs = commands.flatMap(({ folders }) => [...folders.values()]);
  const ended: Ended[] = [];
  const codes: JobsFailed["code"][] = [];
  for (const [i, job] of asked.jobs.entries()) {
    const { given, folders } = commands[i]!;
    const began = performance.now();
    const seconds = () => (performance.now() - began) / 1000;
    try {
      const key = await keyOf(job, host);
      const before = isDry ? undefined : state.knows(job.name, key);
      const known = before?.state;
      const there = await recordsOf(folders, host);
      // What is whole may still have to be published.
      if (there && (known === "done" || known === "begun" && job.target === undefined)) {
        if (known === "begun") await state.finish(job.name, key);
        if (key.model !== undefined && key.model !== before?.model) {
          host.err.write(
            `sluice: warning: ${visible(job.name)} is done before, and files of ` +
              `${visible(job.model)} were changed since. If that is another model now, remove ` +
              "what the job has made, and it is made again.\n",
          );
        }
        ended.push({ job, state: "done before", records: there });
        continue;
      }
      if (host.signal.aborted) {
        ended.push({ job, state: "not begun" });
        continue;
      }
      if (!parsed.get("quiet")) {
        const what = `${visible(job.model)}, ${visible(job.recipe)}`;
        host.err.write(`sluice: ${i + 1} of ${asked.jobs.length}: ${what}\n`);
      }
      if (!isDry && !there) await state.begin(job.name, key);
      await quantizeCommand.run(given, jobHost(job, { parsed, host, isDry, otherOutputs }));
      const records = await recordsOf(folders, host);
      ended.push({ job, state: "done", seconds: seconds(), records });
      if (!isDry) await state.finish(job.name, key);
    } catch (error) {
      if (host.signal.aborted) {
        const isKept = error instanceof GoesOn;
        ended.push(
          isKept ? { job, state: "stopped", seconds: seconds() } : { job, state: "not begun" },
        );
        continue;
      }
      const knows = (flag: string) => quantizeCommand.flags.some(({ name }) => name === flag);
      const { code, message, stack } = describeFault(error, knows);
      codes.push(code);
      state.fail(job.name);
      ended.push({ job, state: "failed", seconds: seconds(), message });
      host.err.write(`sluice: ${message}\n${stack === undefined ? "" : `${stack}\n`}`);
    }
  }
  if (!isDry) tell(ended, { parsed, host });
  await state.save();
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
  { parsed, host, isDry, otherOutputs }: {
    readonly parsed: ParsedArguments;
    readonly host: Host;
    readonly isDry: boolean;
    /** Of all jobs: what a stopped one has left is the batch's to go on with. */
    readonly otherOutputs: readonly string[];
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
  return { ...host, otherOutputs, out: { ...host.out, isTerminal: false, columns: 80, write } };
}

/**
 * What a job's output depends on: its words, and the model, whose folder may have got another since.
 * A repository of the Hub is what it was when the job was done.
 *
 * @throws {CheckpointError} the folder holds no model.
 */
async function keyOf({ words, model }: Job, { version }: Host): Promise<JobKey> {
  const hash = (value: unknown) => createHash("sha256").update(JSON.stringify(value)).digest("hex");
  const key = { words: hash([version, words]), model: undefined };
  if (model === "sample" || !(await disk.stat(model))) return key;
  await using source = await open(model);
  return { ...key, model: hash([source.id, source.changed]) };
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
  const failed = facts.filter(({ message }) => message !== null);
  if (failed.length === 0) return;
  host.out.write(
    `\n${failed.map(({ job, message }) => `${visible(job)}: ${message}\n`).join("")}`,
  );
}

/** `sluice advise`: which quantization suits a machine. */
import {
  HARDWARE,
  type Hardware,
  hardwareNamed,
  TARGETS,
  usualHardware,
} from "../../advice/hardware.ts";
import { type Advice, advise, type Proposal } from "../../advise.ts";
import type { Backend } from "../../backend.ts";
import type { Score } from "../../evaluator.ts";
import { quote, RequestError } from "../../errors.ts";
import { requestOf, type Walks } from "../../plan/planned.ts";
import type { Reporter } from "../../report.ts";
import { run } from "../../run.ts";
import { openNowhere } from "../../sinks/nowhere.ts";
import { size } from "../../size.ts";
import type { TensorSource } from "../../source.ts";
import { prepareCalibration, prepareWindows } from "../../windows.ts";
import type { Command, Host, ParsedArguments } from "../command.ts";
import { jsonLine } from "../json.ts";
import { table } from "../table.ts";
import { shellWord } from "../text.ts";
import { DEVICE_FLAGS, findDeviceFor, MODEL } from "./flags.ts";
import { beginViews, MESSAGE_FLAGS, shownWarnings } from "./messages.ts";
import { openModel } from "./model.ts";

const GROUP = "Machine";

/** Tokens of a window that a proposal is tried on. */
const SEQ_LEN = 512;

/** What plans of calibrated recipes reckon with where nothing is tried. */
const CALIBRATION = { seqLen: SEQ_LEN, windows: 128, stateBudget: 0 };

/** `sluice advise MODEL` */
export const adviseCommand: Command = {
  arguments: [MODEL],
  flags: [
    {
      name: "target",
      type: "string",
      choices: TARGETS,
      help: "where the model is to run",
      default: "laptop",
      group: GROUP,
    },
    {
      name: "hardware",
      type: "string",
      placeholder: "name",
      help:
        `a machine: ${HARDWARE.map(({ name }) => name).join(", ")} (the usual one of the target ` +
        "unless given)",
      group: GROUP,
    },
    {
      name: "memory",
      type: "bytes",
      placeholder: "size",
      min: 1,
      help: "memory that weights may be in, if it is not the machine's usual",
      group: GROUP,
    },
    {
      name: "try",
      type: "integer",
      placeholder: "n",
      min: 1,
      help: "quantize by each proposal, calibrated and measured on n windows of 512 tokens; " +
        "writes nothing",
      group: "Measuring",
    },
    {
      name: "corpus",
      type: "string",
      placeholder: "text",
      help: "the text to try on: sample, a file, or a dataset of the Hub",
      default: "sample",
      group: "Measuring",
    },
    ...DEVICE_FLAGS,
    ...MESSAGE_FLAGS,
  ],
  examples: [
    ["advise ./SmolLM2-135M --target server", "three recipes for an H100"],
    ["advise ./SmolLM2-135M --hardware rtx-4090", "for that card"],
    ["advise sample --target mobile --memory 4GB --try 8", "measured on eight windows"],
  ],
  run: showAdvice,
};

/** A proposal, and what was measured of it. */
interface Tried {
  readonly proposal: Proposal;
  readonly scores: Readonly<Record<string, Score>> | undefined;
}

async function showAdvice(parsed: ParsedArguments, host: Host): Promise<void> {
  await using stack = new AsyncDisposableStack();
  const views = stack.use(await beginViews(parsed, host));
  const machine = machineOf(parsed);
  const source = await openModel(parsed.arguments[0]!, {
    parsed,
    host,
    report: views.report,
    stack,
  });
  const device = await findDeviceFor(parsed, views.report);
  const count = parsed.get("try") as number | undefined;
  const text = { corpus: String(parsed.get("corpus")), seqLen: SEQ_LEN };
  const found = count === undefined ? undefined : {
    calibration: await prepareCalibration(source, { ...text, numSamples: count }),
    evaluation: await prepareWindows(source, { ...text, numSamples: count }),
  };
  const walks: Walks = found
    ? { calibration: requestOf(found.calibration), evaluation: requestOf(found.evaluation) }
    : { calibration: CALIBRATION };
  const memory = parsed.get("memory");
  const advice = advise(source, {
    hardware: machine,
    ...(memory === undefined ? {} : { memoryBytes: Number(memory) }),
    device: device.limits,
    ...walks,
  });
  const backend = found && stack.use(await device.open());
  const tried: Tried[] = [];
  for (const proposal of advice.proposals) {
    const scores = found && backend && await tryOut(proposal, {
      ...found,
      source,
      backend,
      report: views.report,
      signal: host.signal,
    });
    tried.push({ proposal, scores });
  }
  views[Symbol.dispose]();
  const model = parsed.arguments[0]!;
  host.out.write(
    parsed.get("json")
      ? jsonLine({
        type: "result",
        model: source.label,
        hardware: advice.hardware.name,
        proposals: tried.map((one) => documentOf(one, model)),
        refused: advice.refused,
        warnings: shownWarnings(views.warnings, parsed),
      })
      : showTable(advice, { tried, model }),
  );
}

/** @throws {RequestError} no machine of that name is known. */
function machineOf(parsed: ParsedArguments): Hardware {
  const name = parsed.get("hardware");
  if (name === undefined) return usualHardware(parsed.get("target") as Hardware["target"]);
  const found = hardwareNamed(String(name));
  if (found) return found;
  throw new RequestError(
    `Cannot advise for ${quote(String(name))}: it is not known. Known are ${
      HARDWARE.map(({ name }) => name).join(", ")
    }; or give --target and --memory.`,
  );
}

async function tryOut(
  { plan: work }: Proposal,
  { source, backend, calibration, evaluation, report, signal }: {
    readonly source: TensorSource;
    readonly backend: Backend;
    readonly calibration: Awaited<ReturnType<typeof prepareCalibration>>;
    readonly evaluation: Awaited<ReturnType<typeof prepareWindows>>;
    readonly report: Reporter;
    readonly signal: AbortSignal;
  },
): Promise<Tried["scores"]> {
  await using sink = openNowhere();
  const calibrated = work.calibration ? { calibration } : {};
  const given = { source, backend, sink, evaluation, report, signal, ...calibrated };
  return (await run(work, given)).scores;
}

/** The command that makes a proposal. */
function commandOf({ options }: Proposal, model: string): string {
  const flags = Object.entries(options).map(([name, value]) => `--${name} ${value}`).join(" ");
  return `sluice quantize ${shellWord(model)} ${flags} --output folder`;
}

function documentOf({ proposal, scores }: Tried, model: string): object {
  const { title, options, plan: work, tokensPerSecond, left, loaders } = proposal;
  return {
    title,
    options,
    command: commandOf(proposal, model),
    total_bytes: work.totalBytes,
    bits_per_weight: work.bitsPerWeight,
    tokens_per_second: tokensPerSecond,
    memory_left: left,
    loaders,
    scores: scores ?? null,
  };
}

function showTable(
  { hardware, refused }: Advice,
  { tried, model }: { readonly tried: readonly Tried[]; readonly model: string },
): string {
  const right = (head: string) => ({ head, align: "right" as const });
  const measured = tried.some(({ scores }) => scores);
  const rows = tried.map(({ proposal, scores }) => [
    Object.values(proposal.options).join(" g"),
    size(proposal.plan.totalBytes),
    `${tokens(proposal.tokensPerSecond)}/s`,
    size(proposal.left),
    proposal.loaders.map(({ name, opens }) => opens === "yes" ? name : `${name}?`).join(", "),
    ...(measured ? [scores!.divergence!.mean!.toPrecision(3)] : []),
  ]);
  const columns = [
    { head: "SCHEME" },
    right("SIZE"),
    right("TOKENS AT MOST"),
    right("MEMORY LEFT"),
    { head: "LOADERS" },
    ...(measured ? [right("KL (NATS)")] : []),
  ];
  const lines = tried.map(({ proposal }) => `# ${proposal.title}\n${commandOf(proposal, model)}\n`);
  const loaders = new Map(
    tried.flatMap(({ proposal, proposal: { options: { scheme } } }) =>
      proposal.loaders.map(({ name, why }) => [`${name} of ${scheme}`, why] as const)
    ),
  );
  const whys = [...loaders].map(([name, why]) => `${name}: ${why}\n`);
  const others = refused.map(({ title, why }) => `not ${title}: ${why}\n`);
  return `${hardware.name}: ${size(hardware.memoryBytes)} at ${
    size(hardware.bandwidth)
  }/s, ${hardware.units}\n\n${table(columns, rows)}
Tokens: of one request, if nothing but reading the weights took time. ?: nobody has tried.

${whys.join("")}
${lines.join("")}${others.length > 0 ? `\n${others.join("")}` : ""}`;
}

/** Three digits. */
function tokens(count: number): string {
  return Number(count.toPrecision(3)).toLocaleString("en-US");
}

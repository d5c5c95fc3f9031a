/** Several outputs of one read as tables: those that are planned, and those that were made. */
import { memoryOf } from "../plan/outputs.ts";
import type { Plan } from "../plan/planned.ts";
import { quantizeTasks } from "../plan/tasks.ts";
import { schemeKind } from "../schemes/mod.ts";
import type { RunReport } from "../report/run_report.ts";
import { size } from "../size.ts";
import { sum } from "../tensor.ts";
import { memoryRows, onDisk, type Taken } from "./plan_view.ts";
import { pairs, table } from "./table.ts";
import { duration, plural, visible } from "./text.ts";

/** An output, and its plan. */
export interface PlannedFolder {
  readonly path: string;
  readonly plan: Plan;
}

/** One line for a run that begins: what will come of it. */
export function outputsSentence(plans: readonly Plan[]): string {
  const { sourceBytes } = plans[0]!;
  const all = together(plans);
  const { device, memory } = all;
  const disk = onDisk(all);
  return `${plural(plans.length, "output")} by one read, ${size(sourceBytes)} to ${
    size(sum(plans, ({ totalBytes }) => totalBytes))
  }, planned memory ${size(memory.peak)}` +
    (device === "webgpu" ? `, ${size(memory.device)} on the GPU` : "") +
    (disk === "" ? "" : `, on disk ${disk}`);
}

/** What is planned of all, for `sluice plan`, below the plan of each. */
export function showOutputPlans(outputs: readonly PlannedFolder[]): string {
  const plans = outputs.map(({ plan }) => plan);
  const { sourceBytes } = plans[0]!;
  return [
    table(
      [...HEADS, ...["BITS", "SIZE"].map(right)],
      outputs.map((output) => cellsOf(output)),
    ),
    pairs([
      [
        "size of all",
        `${size(sum(plans, ({ totalBytes }) => totalBytes))}, from ${
          size(sourceBytes)
        }, which is read once`,
      ],
      ...memoryRows(together(plans)),
    ]),
  ].join("\n");
}

/** What came of a run. */
export function showOutputs(
  outputs: readonly (PlannedFolder & { readonly report: RunReport })[],
): string {
  const [{ report: { seconds, peakBytes } }] = outputs as readonly [typeof outputs[0]];
  const measured = outputs.some(({ report: { scores } }) => scores.perplexity !== undefined);
  const before = outputs[0]!.report.scores.perplexity?.original_perplexity;
  const planned = memoryOf(outputs.map(({ plan }) => plan)).peak;
  return [
    table(
      [...HEADS, ...["BITS", "SIZE", ...(measured ? ["KL", "PERPLEXITY"] : [])].map(right)],
      outputs.map((output) => {
        const { divergence, perplexity } = output.report.scores;
        return [
          ...cellsOf(output),
          ...(measured
            ? [
              divergence?.mean?.toPrecision(3) ?? "",
              perplexity?.perplexity?.toFixed(4) ?? "",
            ]
            : []),
        ];
      }),
    ),
    pairs([
      ...(before === undefined ? [] : [["perplexity before", before.toFixed(4)] as const]),
      ["time", duration(seconds)],
      [
        "peak memory",
        `${peakBytes > 0 ? `${size(peakBytes)} at most` : "not measured"}, planned ${
          size(planned)
        }`,
      ],
    ]),
  ].join("\n");
}

const HEADS = ["OUTPUT", "SCHEME", "METHOD"].map((head) => ({ head }));

const right = (head: string) => ({ head, align: "right" as const });

function cellsOf({ path, plan }: PlannedFolder): string[] {
  const tasks = quantizeTasks(plan.units);
  return [
    visible(path),
    mostOf(tasks.map(({ scheme }) => schemeKind(scheme).label(scheme))),
    mostOf(tasks.map(({ chain }) => chain.name)),
    plan.bitsPerWeight.toFixed(3),
    size(plan.totalBytes),
  ];
}

/** What most have, and how many others there are. */
function mostOf(names: readonly string[]): string {
  const counts = Map.groupBy(names, (name) => name);
  const [most, ...others] = [...counts].sort(([, a], [, b]) => b.length - a.length);
  if (!most) return "";
  return others.length === 0 ? most[0] : `${most[0]} and ${plural(others.length, "other")}`;
}

/** What all take of the machine. */
function together(plans: readonly Plan[]): Taken {
  return {
    device: plans[0]!.device,
    spilledBytes: sum(plans, ({ spilledBytes }) => spilledBytes),
    carryBytes: sum(plans, ({ carryBytes }) => carryBytes),
    memory: memoryOf(plans),
  };
}

/** The commands. To add one: a file here and a row below. */
import type { CommandRow } from "../command.ts";

/** Every command, in the order `sluice --help` shows them. */
export const COMMANDS: readonly CommandRow[] = [
  {
    name: "quantize",
    summary: "quantize a checkpoint and write one that loads",
    load: async () => (await import("./quantize.ts")).quantizeCommand,
  },
  {
    name: "status",
    summary: "say how far a run is, goes on or was stopped, by the folder that it writes",
    load: async () => (await import("./status.ts")).statusCommand,
  },
  {
    name: "plan",
    summary: "show what quantize would do: every tensor's fate, files, sizes, memory, loaders",
    load: async () => (await import("./plan.ts")).planCommand,
  },
  {
    name: "work",
    summary: "do some of a plan that machines share: plan --work-dir, work, merge",
    load: async () => (await import("./work.ts")).workCommand,
  },
  {
    name: "merge",
    summary: "put together what workers have done, as the checkpoint of one machine",
    load: async () => (await import("./merge.ts")).mergeCommand,
  },
  {
    name: "cluster",
    summary: "print a job file for Slurm, Kubernetes or HF Jobs, for a plan that machines share",
    load: async () => (await import("./cluster.ts")).clusterCommand,
  },
  {
    name: "batch",
    summary: "quantize many models by many recipes, from one file",
    load: async () => (await import("./batch.ts")).batchCommand,
  },
  {
    name: "evaluate",
    summary: "measure a checkpoint: perplexity, and with --reference the KL divergence",
    load: async () => (await import("./evaluate.ts")).evaluateCommand,
  },
  {
    name: "inspect",
    summary:
      "show what a checkpoint holds: dtypes, parameters, tensors, files, and how it was quantized",
    load: async () => (await import("./inspect.ts")).inspectCommand,
  },
  {
    name: "advise",
    summary: "propose quantizations that suit a machine, with sizes, speed limits and loaders",
    load: async () => (await import("./advise.ts")).adviseCommand,
  },
  {
    name: "curves",
    summary: "rate against distortion of every scheme, beside Shannon's bound",
    load: async () => (await import("./curves.ts")).curvesCommand,
  },
  {
    name: "granularity",
    summary: "int weights with a scale per tensor, row, column, group and block, each measured",
    load: async () => (await import("./granularity.ts")).granularityCommand,
  },
  {
    name: "verify",
    summary:
      "read a written checkpoint back: structure, scales, values against the source, loaders",
    load: async () => (await import("./verify.ts")).verifyCommand,
  },
  {
    name: "publish",
    summary: "verify a quantized checkpoint, write its model card, and commit it to the Hub",
    load: async () => (await import("./publish.ts")).publishCommand,
  },
  {
    name: "devices",
    summary: "list GPUs, the CPU and its BLAS, their limits and features",
    load: async () => (await import("./devices.ts")).devicesCommand,
  },
  {
    name: "demo",
    summary:
      "quantize the embedded model to W4A16 and NF4 and measure what was lost; about a minute",
    load: async () => (await import("./demo.ts")).demoCommand,
  },
];

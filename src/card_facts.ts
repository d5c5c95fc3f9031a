/** What Sluice knows of a checkpoint, as the facts of a model card: of a run that just made it, or of one that was only verified. */
import type { CardFacts, CardScheme } from "./model_card.ts";
import type { Plan } from "./plan.ts";
import type { TensorReport } from "./report.ts";
import type { RunReport } from "./run.ts";
import type { TensorSource } from "./source.ts";
import type { VerifyReport } from "./verify.ts";

type Found = Omit<CardFacts, "name">;
type Config = TensorSource["config"];

/** The facts of a run. What it cannot know (the command, the versions, the base model's card) is added by the caller. */
export function factsOfRun(
  plan: Plan,
  { report, config }: {
    readonly report: Pick<RunReport, "scores" | "tensors">;
    readonly config: Config;
  },
): Found {
  const { format, bitsPerWeight, totalBytes, sourceBytes, loaders } = plan;
  return {
    ...(format.quantMethod === undefined ? {} : { format: format.name }),
    ...architecture(config),
    schemes: schemesOf(report.tensors),
    bitsPerWeight,
    bytes: totalBytes,
    sourceBytes,
    scores: report.scores,
    loaders,
  };
}

/** The facts that a verification brought to light. */
export function factsOfCheckpoint(report: VerifyReport, config: Config): Found {
  const { format, quantized, loaders, bytes } = report;
  return {
    ...(format === undefined ? {} : { format }),
    ...architecture(config),
    schemes: schemesOf(quantized),
    bytes,
    loaders,
  };
}

function architecture({ architectures }: Config): { architecture?: string } {
  const first: unknown = Array.isArray(architectures) ? architectures[0] : undefined;
  return typeof first === "string" ? { architecture: first } : {};
}

/** Matrices by scheme, the most first. */
function schemesOf(tensors: readonly TensorReport[]): CardScheme[] {
  const counts = new Map<string, number>();
  for (const { scheme } of tensors) counts.set(scheme, (counts.get(scheme) ?? 0) + 1);
  return [...counts].map(([label, matrices]) => ({ label, matrices }))
    .sort((a, b) => b.matrices - a.matrices);
}

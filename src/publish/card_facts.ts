/**
 * What Sluice knows of a checkpoint, as the facts of a model card: from the record of the run that
 * made it, and from looking at it.
 */
import { type CardFacts, protocolOf } from "./model_card.ts";
import { counted, type RecordedCard, type RunRecord } from "../report/record.ts";
import type { TensorSource } from "../source.ts";
import type { SourceCard } from "../sources/source_card.ts";
import type { VerifyReport } from "../verify.ts";

/**
 * The facts that a verification brought to light, and those that the checkpoint's record has, if it
 * has one.
 */
export function factsOfCheckpoint(
  report: Pick<VerifyReport, "format" | "quantized" | "bytes" | "loaders" | "record">,
  config: TensorSource["config"],
): Omit<CardFacts, "name"> {
  const { format, quantized, loaders, bytes, record } = report;
  return {
    ...(format === undefined ? {} : { format }),
    ...architecture(config),
    schemes: counted(quantized.map(({ scheme }) => scheme)),
    bytes,
    loaders,
    ...(record ? factsOfRecord(record) : {}),
  };
}

function factsOfRecord(record: RunRecord): Omit<CardFacts, "name"> {
  const { model, command, recipe, generator, runtime, device } = record;
  const { methods, schemes, bits_per_weight, calibration, evaluation } = record;
  const [id, commit] = model.id?.split("@") ?? [];
  const version = (program: string) => program.split(" ").at(-1) ?? "";
  return {
    base: {
      ...(id !== undefined && commit !== undefined ? { id, commit } : {}),
      ...(model.card ? { card: sourceCard(model.card) } : {}),
    },
    ...(command === null ? {} : { command }),
    recipe,
    methods,
    schemes,
    bitsPerWeight: bits_per_weight,
    versions: { Sluice: version(generator), Deno: version(runtime) },
    device: device.description,
    bytes: record.total_bytes,
    sourceBytes: record.source_bytes,
    scores: record.scores,
    ...(record.certificate ? { certificate: record.certificate } : {}),
    ...(record.energy ? { energy: record.energy } : {}),
    ...(calibration ? { calibration: protocolOf(calibration) } : {}),
    ...(evaluation ? { protocol: protocolOf(evaluation) } : {}),
  };
}

function sourceCard(card: RecordedCard): SourceCard {
  const { license, license_name, license_link, language, pipeline_tag } = card;
  return {
    ...(license === null ? {} : { license }),
    ...(license_name === null ? {} : { licenseName: license_name }),
    ...(license_link === null ? {} : { licenseLink: license_link }),
    ...(language === null ? {} : { language }),
    ...(pipeline_tag === null ? {} : { pipelineTag: pipeline_tag }),
    tags: card.conversational ? ["conversational"] : [],
    gate: card.gate,
  };
}

function architecture({ architectures }: TensorSource["config"]): { architecture?: string } {
  const first: unknown = Array.isArray(architectures) ? architectures[0] : undefined;
  return typeof first === "string" ? { architecture: first } : {};
}

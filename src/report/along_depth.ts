/**
 * Errors and widths along the depth of a model, short enough for the record: one number for each
 * layer and kind of linear, of experts the mean. Pictures of a model card are drawn from it.
 */
import type { StreamErrors } from "../forward/stream_error.ts";
import type { TensorReport } from "../report.ts";
import { placesOf } from "./places.ts";

/** Weights of one kind, layer by layer; the lists are as long as one another. */
export interface KindAlongDepth {
  /** `mlp.up_proj` */
  readonly kind: string;
  /** Numbers of the layers, ascending. */
  readonly layers: readonly number[];
  /** Stored bits per weight, scales included. */
  readonly bits: readonly number[];
  /** tr(E·H·Eᵀ) / tr(W·H·Wᵀ); null where it was not measured, or is no finite number. */
  readonly output_error: readonly (number | null)[];
  /** Σ(w − ŵ)² / Σw²; null likewise. */
  readonly weight_error: readonly (number | null)[];
}

/** What a record says along the layers. */
export interface AlongDepth {
  /** ‖x̃ − x‖ / ‖x‖ of the residual stream behind each block; null without an evaluation. */
  readonly stream_error: readonly (number | null)[] | null;
  readonly kinds: readonly KindAlongDepth[];
}

/** What of a run is told along the layers; null where there is nothing to see. */
export function alongDepth(
  tensors: readonly TensorReport[],
  stream: StreamErrors | undefined,
): AlongDepth | null {
  const places = placesOf(tensors.map(({ name }) => name));
  const placed = tensors.flatMap((tensor, i) => {
    const { depth, kind } = places[i]!;
    return depth === null ? [] : [{ tensor, depth, kind }];
  });
  const kinds = [...Map.groupBy(placed, ({ kind }) => kind)].map(([kind, own]) => {
    const layers = [...Map.groupBy(own, ({ depth }) => depth)].sort(([a], [b]) => a - b);
    const each = (value: (tensor: TensorReport) => number | undefined) =>
      layers.map(([, weights]) => meanOf(weights.map(({ tensor }) => value(tensor))));
    return {
      kind,
      layers: layers.map(([depth]) => depth),
      bits: each(({ bitsPerWeight }) => bitsPerWeight).map(Number),
      output_error: each(({ calibration }) => calibration?.outputError),
      weight_error: each(({ metrics }) => errorOfSqnr(metrics.sqnr_db)),
    };
  });
  const isMeasured = ({ output_error, weight_error }: KindAlongDepth) =>
    [...output_error, ...weight_error].some((error) => error !== null);
  const schemes = new Set(placed.map(({ tensor: { scheme } }) => scheme));
  const told = kinds.some(isMeasured) || schemes.size > 1 ? kinds : [];
  if (told.length === 0 && !stream) return null;
  return { stream_error: stream ? stream.blocks.map(short) : null, kinds: told };
}

/** Σ(w − ŵ)² / Σw², of which SQNR is 10·log₁₀ of the inverse. */
export function errorOfSqnr(decibels: number | undefined): number | undefined {
  return decibels === undefined ? undefined : 10 ** (-decibels / 10);
}

/** The mean; null where one of the values is missing. */
function meanOf(values: readonly (number | undefined)[]): number | null {
  const known = values.filter((value) => value !== undefined);
  return known.length < values.length ? null : short(known.reduce((a, b) => a + b) / known.length);
}

/** As exact as a picture shows it. */
function short(x: number): number | null {
  return Number.isFinite(x) ? Number(x.toPrecision(4)) : null;
}

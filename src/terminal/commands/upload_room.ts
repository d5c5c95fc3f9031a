/**
 * How much of an output may be on this disk while it is uploaded, where `--max-disk` is less than it
 * takes.
 */
import { RequestError } from "../../errors.ts";
import type { Plan } from "../../plan/planned.ts";
import { neededAtTheEnd } from "../../run/readings.ts";
import { size } from "../../size.ts";
import { sum } from "../../tensor.ts";
import type { ParsedArguments } from "../command.ts";
import { budgetsOf } from "./budgets.ts";

/** What is here of weights that are uploaded while they are made, where not all of them stay. */
export interface Room {
  /** The most bytes at once. */
  readonly bytes: number;
  /** Files that stay until the end, for they are measured with. */
  readonly staying: ReadonlySet<string>;
}

/**
 * How much of the weights may be here at once; undefined where all of them stay.
 *
 * @throws {RequestError} it is too little.
 */
export function roomFor(
  planned: Plan,
  { parsed, staged }: { readonly parsed: ParsedArguments; readonly staged: boolean },
): Room | undefined {
  const { files } = planned;
  const bytes = budgetsOf(parsed, { staged }).disk;
  if (bytes === undefined || !parsed.has("upload-repo")) return undefined;
  if (bytes >= sum(files, (file) => file.size)) return undefined;
  const kept = planned.evaluation ? neededAtTheEnd(planned) : new Set<string>();
  const stays = files.filter(({ tensors }) => tensors.some(({ name }) => kept.has(name)));
  // One is made while another is on its way.
  const largest = files.map((file) => file.size).sort((a, b) => b - a).slice(0, 2);
  const least = sum(stays, (file) => file.size) + sum(largest, (bytes) => bytes);
  if (bytes < least) {
    throw new RequestError(
      `Cannot keep to --max-disk: ${size(least)} of weights are here at once, and ${
        size(bytes)
      } is their share. Give more, or smaller files by --max-shard-size.`,
    );
  }
  return { bytes, staying: new Set(stays.map(({ path }) => path)) };
}

/** What becomes of the weights here, in words. */
export function roomSentence({ bytes }: Room): string {
  return `at most ${size(bytes)} of the weights are on this disk at once, as --max-disk asks: ` +
    "what the Hub has is removed here, and the output will not hold the weights";
}

/** What a run reads of its source, and what it keeps of its output: from the plan alone. */
import { tensorsRead } from "../forward/streams.ts";
import { graphsOf } from "../graph/block_graph.ts";
import type { Plan } from "../plan/planned.ts";
import type { Place } from "../plan/tasks.ts";
import type { Model } from "../family.ts";
import { isForPredictions, scheduleOf, tuningOf } from "../plan/tuning.ts";
import type { Reading } from "../source.ts";
import type { Part, Step } from "./unit.ts";

/**
 * Every tensor that a run reads, in order: each unit's for quantizing, then again for the windows.
 *
 * @param options.measured Whether windows of an evaluation go through the model.
 */
export function readings(
  steps: readonly Step[],
  { model, measured }: { readonly model: Model | undefined; readonly measured: boolean },
): Reading[] {
  const whole = (place: Place | undefined) =>
    model ? tensorsRead(model, place).map((name) => ({ name })) : [];
  const again = (place: Place | undefined) => measured ? whole(place) : [];
  // What a block is trained for is what the model predicts after it.
  const behind = (place: number, { plan: { calibration }, unit: { tasks } }: Part) => {
    const [tuning, graphs] = [tuningOf(tasks), model ? graphsOf(model) : []];
    if (!model || !calibration || !tuning) return [];
    const schedule = scheduleOf(tuning, calibration.windows);
    if (!isForPredictions(model, graphs[place]!, schedule)) return [];
    return [...graphs.keys().drop(place + 1).flatMap(whole), ...whole(undefined)];
  };
  return [
    ...steps.flatMap(({ parts, calibrated, reads }) => {
      const { place } = parts[0]!.unit;
      const named = reads.map(([{ source: { name } }]) => ({ name }));
      if (calibrated.length > 0 && typeof place === "number") {
        return [
          ...whole(place),
          ...calibrated.flatMap((part) => behind(place, part)),
          ...named,
        ];
      }
      const embeds = parts.some(({ plan }) => plan.calibration !== undefined);
      return [
        ...named,
        ...(place === "embedding" && embeds ? whole(place) : []),
        ...(place === undefined ? [] : again(place)),
      ];
    }),
    ...again(undefined),
  ];
}

/**
 * Output tensors that the scores are computed from: those behind the blocks, and the output head's,
 * which may be the embedding.
 */
export function neededAtTheEnd({ model, units }: Plan): ReadonlySet<string> {
  const head = model?.head?.linear.at.of;
  const tasks = [
    ...units.flatMap(({ tasks }) => tasks).filter(({ source }) => source.name === head),
    ...units.filter(({ place }) => place === undefined).flatMap(({ tasks }) => tasks),
  ];
  return new Set(tasks.flatMap(({ outputs }) => outputs).map(({ name }) => name));
}

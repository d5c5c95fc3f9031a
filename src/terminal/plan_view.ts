/** A plan as tables for a person and as JSON for a program. */
import { isCalibrated } from "../plan/needs.ts";
import { energyOf, energySentence, type EnergyTable } from "../plan/energy.ts";
import type { Backend } from "../backend.ts";
import type { MemoryPlan } from "../plan/planned.ts";
import type { Verdict } from "../format.ts";
import type { Plan } from "../plan/planned.ts";
import { quantizeTasks, type TensorTask } from "../plan/tasks.ts";
import { schemeKind } from "../schemes/mod.ts";
import { size } from "../size.ts";
import { byteLength, sum } from "../tensor.ts";
import { recipeDocument } from "../recipe.ts";
import { RECORD_FILE } from "../io/names.ts";
import { Verbatim } from "./json.ts";
import { pairs, table } from "./table.ts";
import { count, plural, ranges, visible, visibleMessage } from "./text.ts";

/**
 * The whole plan for `sluice plan`.
 *
 * @param options.together It is one of several outputs, whose memory is told of apart.
 */
export function showPlan(
  plan: Plan,
  energyTable?: EnergyTable,
  { together = false }: { readonly together?: boolean } = {},
): string {
  const { files, sidecars } = plan;
  const energy = energyOf(plan, { ...(energyTable ? { table: energyTable } : {}) });
  return [
    showTasks(plan.units.flatMap(({ tasks }) => tasks)),
    table(
      [{ head: "FILE" }, { head: "TENSORS", align: "right" }, { head: "SIZE", align: "right" }],
      [
        ...files.map((
          { path, tensors, size: bytes },
        ) => [visible(path), count(tensors.length), size(bytes)]),
        ...sidecars.map(({ path, size: bytes }) => [visible(path), "", size(bytes)]),
        [RECORD_FILE, "", "some kB"],
      ],
    ),
    pairs([
      ["format", plan.format.name],
      [
        "quantized",
        `${count(plan.quantizedWeights)} weights at ${plan.bitsPerWeight.toFixed(3)} bits each`,
      ],
      ...(plan.calibration
        ? [
          [
            "calibrated",
            `on ${plural(plan.calibration.windows, "window")} of ${
              count(plan.calibration.seqLen)
            } tokens`,
          ] as const,
        ]
        : []),
      ["size", `${size(plan.totalBytes)}, from ${size(plan.sourceBytes)}`],
      ...(together ? [] : memoryRows(plan)),
      ...(energy ? [["energy", visible(energySentence(energy))] as const] : []),
    ]),
    showLoaders(plan.loaders),
  ].join("\n");
}

/** What a plan takes of the machine, or several together. */
export type Taken = Pick<Plan, "device" | "memory" | "spilledBytes" | "carryBytes">;

/** What a run takes of the machine. */
export function memoryRows(plan: Taken): (readonly [name: string, value: string])[] {
  const { memory } = plan;
  return [
    ["memory", `${size(memory.peak)} at most: ${memoryParts(memory)}`],
    ...(plan.device === "webgpu"
      ? [["memory of the GPU", `${size(memory.device)} at most`] as const]
      : []),
    ...(onDisk(plan) === "" ? [] : [["on disk meanwhile", onDisk(plan)] as const]),
  ];
}

/** What of a run lies on disk, in words; nothing where nothing does. */
export function onDisk({ spilledBytes, carryBytes, memory: { disk } }: Taken): string {
  return [
    ...(spilledBytes > 0 ? [`${size(spilledBytes)} of hidden states`] : []),
    ...(disk > 0 ? [`${size(disk)} of matrices, which is slower`] : []),
    ...(carryBytes > 0 ? [`${size(carryBytes)} to go on with after a stop`] : []),
  ].join(", ");
}

function memoryParts(
  { base, slice, weights, calibration, states, activations }: MemoryPlan,
): string {
  const parts = [
    ["runtime", base],
    ["largest slice", slice],
    ["a block's weights", weights],
    ["a block's calibration", calibration],
    ["activations", activations],
    ["hidden states", states],
  ] as const;
  return parts.filter(([, bytes]) => bytes > 0).map(([name, bytes]) => `${name} ${size(bytes)}`)
    .join(", ");
}

/** Who opens the result, a line each. */
export function showLoaders(loaders: readonly Verdict[]): string {
  return table(
    [{ head: "LOADER" }, { head: "OPENS IT" }, { head: "WHY" }],
    loaders.map(({ name, opens, why }) => [visible(name), opens, visibleMessage(why)]),
  );
}

/** Tensors of equal fate whose names differ in numbers only. */
interface Group {
  readonly pieces: readonly string[];
  readonly numbers: Set<number>[];
  readonly fate: string;
  tensors: number;
  bytes: number;
  stored: number;
}

/**
 * What becomes of the tensors, layers folded together: `model.layers.{0..29}.mlp.up_proj.weight`.
 */
function showTasks(tasks: readonly TensorTask[]): string {
  const groups = new Map<string, Group>();
  for (const task of tasks) {
    const { pieces, numbers } = splitName(task.source.name);
    const fate = describe(task);
    const group = groups.getOrInsertComputed(
      `${pieces.join("#")}\n${fate}`,
      () => ({
        pieces,
        numbers: numbers.map(() => new Set()),
        fate,
        tensors: 0,
        bytes: 0,
        stored: 0,
      }),
    );
    numbers.forEach((number, i) => group.numbers[i]!.add(number));
    group.tensors++;
    group.bytes += byteLength(task.source);
    group.stored += sum(task.outputs, byteLength);
  }
  return table(
    [
      { head: "TENSORS" },
      { head: "BECOME" },
      { head: "COUNT", align: "right" },
      { head: "FROM", align: "right" },
      { head: "TO", align: "right" },
    ],
    [...groups.values()].map(({ pieces, numbers, fate, tensors, bytes, stored }) => [
      visible(pieces.map((piece, i) => i === 0 ? piece : ranges(numbers[i - 1]!) + piece).join("")),
      visibleMessage(fate),
      count(tensors),
      size(bytes),
      size(stored),
    ]),
  );
}

/** A name cut at the numbers that stand alone between dots. */
function splitName(name: string): { pieces: string[]; numbers: number[] } {
  const parts = name.split(/(?<=\.|^)(\d{1,9})(?=\.|$)/);
  return {
    pieces: parts.filter((_, i) => i % 2 === 0),
    numbers: parts.filter((_, i) => i % 2 === 1).map(Number),
  };
}

function describe(task: TensorTask): string {
  const { dtype } = task.source;
  switch (task.kind) {
    case "quantize": {
      const label = schemeKind(task.scheme).label(task.scheme);
      return isCalibrated(task) ? `${label}, by ${task.chain.name}` : label;
    }
    case "copy":
      return task.dtype === dtype
        ? `${dtype}, as it is (${task.reason})`
        : `${task.dtype} (${task.reason})`;
    case "smooth":
      return `${dtype}, ${task.reason}`;
    case "drop":
      return `nothing (${task.reason})`;
  }
}

/** The whole plan as plain data: every tensor, its fate, and where its outputs will be. */
export function planDocument(
  plan: Plan,
  device: Pick<Backend, "name" | "description">,
  energyTable?: EnergyTable,
): Readonly<Record<string, unknown>> {
  const places = new Map(
    plan.files.flatMap(({ path, tensors }) =>
      tensors.map((tensor) => [tensor.name, { file: path, ...tensor }] as const)
    ),
  );
  return {
    source: plan.source,
    device: { name: device.name, description: device.description },
    recipe: new Verbatim(recipeDocument(plan.recipe)),
    format: plan.format.name,
    quantized_weights: plan.quantizedWeights,
    bits_per_weight: plan.bitsPerWeight,
    source_bytes: plan.sourceBytes,
    total_bytes: plan.totalBytes,
    planned_memory: plan.memory,
    energy: energyOf(plan, { ...(energyTable ? { table: energyTable } : {}) }),
    files: [
      ...plan.files.map(({ path, size, head }) => ({ path, size, header_bytes: head.length })),
      ...plan.sidecars.map(({ path, size }) => ({ path, size, header_bytes: null })),
      { path: RECORD_FILE, size: null, header_bytes: null },
    ],
    loaders: plan.loaders,
    warnings: plan.warnings,
    tensors: plan.units.flatMap(({ name: block, tasks }) =>
      tasks.map((task) => ({
        name: task.name,
        dtype: task.source.dtype,
        shape: task.source.shape,
        block,
        fate: task.kind,
        scheme: task.kind === "quantize" ? task.scheme : undefined,
        method: task.kind === "quantize" ? task.chain.name : undefined,
        reason: task.kind === "quantize" ? undefined : task.reason,
        outputs: task.outputs.map(({ name }) => places.get(name)),
      }))
    ),
  };
}

/** One line for a run that begins: what will come of it. */
export function planSentence(plan: Plan): string {
  const quantized = quantizeTasks(plan.units).length;
  return `${plural(quantized, "tensor")} to ${plan.bitsPerWeight.toFixed(3)} bits per weight in ` +
    `${plan.format.name}, ${size(plan.sourceBytes)} to ${size(plan.totalBytes)}, ` +
    `planned memory ${size(plan.memory.peak)}` +
    (plan.device === "webgpu" ? `, ${size(plan.memory.device)} on the GPU` : "") +
    (onDisk(plan) === "" ? "" : `, on disk ${onDisk(plan)}`);
}

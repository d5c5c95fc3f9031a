/**
 * An estimate of the energy that a token takes when a model answers one request at a time: bytes
 * moved from memory and operations by width, times a table of energies. Weights are read once a
 * token, which is where nearly all of it goes; attention over the context, activations and the
 * unpacking of codes are left out. Refuses tables with unknown or missing entries.
 */
import defer * as yaml from "yaml";
import { RequestError } from "../errors.ts";
import { isTied, type Model } from "../family.ts";
import { graphsOf } from "../graph/block_graph.ts";
import { isObject } from "../json.ts";
import type { Score } from "../evaluator.ts";
import { BITS, byteLength, elementCount, sum, type TensorInfo } from "../tensor.ts";
import type { Plan } from "./planned.ts";
import type { TensorTask } from "./tasks.ts";

/** What moving and computing cost, in picojoules. */
export interface EnergyTable {
  /** Where the numbers are from. */
  readonly source: string;
  /** A bit read from memory. */
  readonly memoryPerBit: number;
  /** A multiplication of two numbers of a width. */
  readonly multiply: Readonly<Record<"int8" | "f16" | "f32", number>>;
  /** An addition to a sum of a width. */
  readonly add: Readonly<Record<"int32" | "f32", number>>;
}

/**
 * M. Horowitz, "Computing's Energy Problem (and what we can do about it)", ISSCC 2014, 45 nm: a
 * 32-bit access of DRAM is 640 pJ at its least.
 */
export const HOROWITZ: EnergyTable = {
  source: "Horowitz, ISSCC 2014, 45 nm",
  memoryPerBit: 20,
  multiply: { int8: 0.2, f16: 1.1, f32: 3.7 },
  add: { int32: 0.1, f32: 0.9 },
};

/** What one token takes. */
export interface EnergyUse {
  /** Read from memory: weights and all that is stored with them. */
  readonly bytes: number;
  /** Multiplications and additions of the products. */
  readonly operations: number;
  readonly memory_pj: number;
  readonly compute_pj: number;
  /** Operations a picojoule, which is tera-operations a second and watt. */
  readonly tops_per_watt: number;
}

/** An estimate, before and after. */
export interface EnergyEstimate {
  /** Where the energies of a bit and of an operation are from. */
  readonly table: string;
  readonly original: EnergyUse;
  readonly quantized: EnergyUse;
  /** Perplexity of the original by that of the quantized model; null where it was not measured. */
  readonly quality_kept: number | null;
  /** `tops_per_watt` of the quantized model times `quality_kept`; the original keeps all. */
  readonly efficiency: number | null;
}

/**
 * What a token takes before and after a plan; undefined where the architecture is not known, for
 * then nobody can say what a token reads.
 */
export function energyOf(
  { model, units }: Pick<Plan, "model" | "units">,
  { table = HOROWITZ, scores = {} }: {
    readonly table?: EnergyTable;
    readonly scores?: Readonly<Record<string, Score>>;
  } = {},
): EnergyEstimate | undefined {
  if (!model) return undefined;
  const tasks = units.flatMap(({ tasks }) => tasks);
  const multiplied = multipliedTensors(model);
  const original = useOf(tasks.map((task) => usedBefore(task, { model, multiplied })), table);
  const quantized = useOf(tasks.map((task) => usedAfter(task, { model, multiplied })), table);
  const { perplexity: after, original_perplexity: before } = scores.perplexity ?? {};
  const ratio = (before ?? NaN) / (after ?? NaN);
  const kept = Number.isFinite(ratio) ? ratio : null;
  return {
    table: table.source,
    original,
    quantized,
    quality_kept: kept,
    efficiency: kept === null ? null : quantized.tops_per_watt * kept,
  };
}

/** What a tensor adds to a token. */
interface Used {
  readonly bytes: number;
  /** Multiply-adds, one for each weight of a matrix that is multiplied. */
  readonly products: number;
  readonly width: keyof EnergyTable["multiply"];
}

/** The tensors of the linears, and that of the head. */
function multipliedTensors(model: Model): ReadonlySet<string> {
  const names = graphsOf(model).flatMap(({ matrices }) => matrices.map(({ at }) => at.of));
  return new Set([...names, ...(model.head ? [model.head.linear.at.of] : [])]);
}

interface Around {
  readonly model: Model;
  readonly multiplied: ReadonlySet<string>;
}

/** A matrix that is looked up, as an embedding is, gives one row. */
function bytesRead(
  tensors: readonly TensorInfo[],
  name: string,
  { model, multiplied }: Around,
): number {
  const bytes = sum(tensors, byteLength);
  const lookedUp = name === model.embedding.table
    ? !isTied(model)
    : tensors.some(({ shape }) => shape.length > 1) && !multiplied.has(name) &&
      model.shapes.has(name);
  if (!lookedUp) return bytes;
  return sum(tensors, ({ dtype, shape }) => (shape.at(-1) ?? 0) * BITS[dtype] / 8);
}

function floatWidth({ dtype }: TensorInfo): Used["width"] {
  return dtype === "f32" ? "f32" : "f16";
}

function usedBefore(task: TensorTask, around: Around): Used {
  const info = task.kind === "quantize" ? task.weight : task.source;
  const products = around.multiplied.has(task.source.name) ? elementCount(info.shape) : 0;
  const bytes = bytesRead([info], task.source.name, around);
  return { bytes, products, width: floatWidth(info) };
}

function usedAfter(task: TensorTask, around: Around): Used {
  const { products, width } = usedBefore(task, around);
  const bytes = bytesRead(task.outputs, task.source.name, around);
  if (task.kind !== "quantize") {
    const [output] = task.outputs;
    return { bytes, products: output ? products : 0, width: output ? floatWidth(output) : width };
  }
  const { scheme } = task;
  // 8-bit floats have no entry of their own: theirs is at most that of 16 bits.
  const int8 = scheme.kind === "llm_int8" ||
    scheme.kind === "int" && scheme.activations.startsWith("int8");
  return { bytes, products, width: int8 ? "int8" : width };
}

function useOf(used: readonly Used[], table: EnergyTable): EnergyUse {
  const bytes = sum(used, ({ bytes }) => bytes);
  const operations = 2 * sum(used, ({ products }) => products);
  const memory_pj = bytes * 8 * table.memoryPerBit;
  const compute_pj = sum(used, ({ products, width }) => {
    const add = width === "int8" ? table.add.int32 : table.add.f32;
    return products * (table.multiply[width] + add);
  });
  return {
    bytes,
    operations,
    memory_pj,
    compute_pj,
    tops_per_watt: operations / (memory_pj + compute_pj),
  };
}

/**
 * A table of energies, in JSON or YAML: `source`, `memory_pj_per_bit`, `multiply_pj` of `int8`,
 * `f16` and `f32`, `add_pj` of `int32` and `f32`.
 *
 * @param file Its name, for messages.
 * @throws {RequestError} it is not such a table.
 */
export function parseEnergyTable(text: string, file: string): EnergyTable {
  const refuse = (found: string, cause?: unknown): never => {
    throw new RequestError(
      `Cannot read the energy table ${file}: ${found}. It needs source, memory_pj_per_bit, ` +
        "multiply_pj with int8, f16 and f32, and add_pj with int32 and f32.",
      { cause },
    );
  };
  let root: unknown;
  try {
    root = yaml.parse(text);
  } catch (cause) {
    return refuse(`it is neither JSON nor YAML (${(cause as Error).message})`, cause);
  }
  const numbers = <K extends string>(
    value: unknown,
    where: string,
    keys: readonly K[],
  ): Record<K, number> => {
    if (!isObject(value)) return refuse(`${where} is no object`);
    const unknown = Object.keys(value).find((key) => !keys.some((known) => known === key));
    if (unknown !== undefined) refuse(`${where} has "${unknown}", which it does not know`);
    return Object.fromEntries(
      keys.map((key) => [key, energy(value[key], `${where} has "${key}"`)]),
    ) as Record<K, number>;
  };
  const energy = (value: unknown, where: string): number =>
    typeof value === "number" && Number.isFinite(value) && value > 0
      ? value
      : refuse(`${where} = ${JSON.stringify(value) ?? "nothing"}, which is no energy above 0`);
  if (!isObject(root)) return refuse("it holds no object");
  const known = ["source", "memory_pj_per_bit", "multiply_pj", "add_pj"];
  const other = Object.keys(root).find((key) => !known.includes(key));
  if (other !== undefined) return refuse(`it has "${other}", which it does not know`);
  const { source } = root;
  if (typeof source !== "string" || source === "") return refuse("it does not say its source");
  return {
    source,
    memoryPerBit: energy(root.memory_pj_per_bit, "it has memory_pj_per_bit"),
    multiply: numbers(root.multiply_pj, "multiply_pj", ["int8", "f16", "f32"]),
    add: numbers(root.add_pj, "add_pj", ["int32", "f32"]),
  };
}

/** An energy in a unit that fits: `12.3 mJ`. */
export function joules(picojoules: number): string {
  const units = [["J", 1e12], ["mJ", 1e9], ["µJ", 1e6], ["nJ", 1e3], ["pJ", 1]] as const;
  const [unit, size] = units.find(([, size]) => picojoules >= size) ?? ["pJ", 1];
  return `${Number((picojoules / size).toPrecision(3))} ${unit}`;
}

/** The estimate in a sentence. */
export function energySentence({ table, original, quantized, ...quality }: EnergyEstimate): string {
  const total = (use: EnergyUse) => use.memory_pj + use.compute_pj;
  const memory = quantized.memory_pj / total(quantized) * 100;
  const { quality_kept: kept, efficiency } = quality;
  const efficient = efficiency === null || kept === null
    ? ""
    : `; ${Number(efficiency.toPrecision(3))} TOPS/W with ${
      (kept * 100).toFixed(1)
    } % of the quality kept, from ${Number(original.tops_per_watt.toPrecision(3))}`;
  return `${joules(total(quantized))} a token, from ${
    joules(total(original))
  }: an estimate (${table}; one request at a time), ${
    memory.toFixed(0)
  } % of it for memory${efficient}`;
}

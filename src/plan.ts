/**
 * What will be done, decided from headers alone: each tensor's fate, every output file with names, dtypes, shapes and offsets, the
 * bits per weight, the peak memory. Every refusal happens here, before anything is written; after `plan()` only faults stop a run.
 */
import { assign, type Fate } from "./assign.ts";
import type { Backend } from "./backend.ts";
import { budget, type MemoryPlan } from "./budget.ts";
import type { Layout } from "./container.ts";
import { layoutFile } from "./containers/safetensors.ts";
import { UnsupportedError } from "./errors.ts";
import { checkShapes, familyOf } from "./families/mod.ts";
import type { Model } from "./family.ts";
import type { Format, Loader, StoredWeight } from "./format.ts";
import { spliceConfig } from "./formats/config_json.ts";
import type { Recipe } from "./recipe.ts";
import type { Scheme } from "./scheme.ts";
import { schemeKind } from "./schemes/mod.ts";
import type { TensorSource } from "./source.ts";
import { BITS, byteLength, elementCount, matrixShape, type TensorInfo } from "./tensor.ts";

/** What becomes of one source tensor. */
export interface Step {
  readonly source: TensorInfo;
  readonly fate: Fate;
  /** The tensors it becomes, exactly; none when it is dropped. */
  readonly outputs: readonly TensorInfo[];
  /** Rows of the matrix that are quantized at a time; all of them for a small weight. */
  readonly sliceRows: number;
  /** A slice may be cut at multiples of this many rows. */
  readonly rowStep: number;
}

/** Steps that belong together: a block of the model, or what stands before or after the blocks. */
export interface PlannedBlock {
  readonly name: string;
  readonly steps: readonly Step[];
}

/** One output file of tensors, to the byte. */
export interface PlannedFile extends Layout {
  readonly path: string;
}

/** A file beside the weights: made here, or carried along from the source. */
export interface Sidecar {
  readonly path: string;
  readonly size: number;
  /** Absent: the source's file of the same path. */
  readonly bytes?: Uint8Array<ArrayBuffer>;
}

/** How a model will be measured while it is quantized. */
export interface EvaluationRequest {
  /** Tokens per window. */
  readonly seqLen: number;
  /** Windows that will run. */
  readonly windows: number;
  /** Bytes of hidden states kept in memory; more are spilled to disk. */
  readonly stateBudget: number;
}

/** What will be done. */
export interface Plan {
  readonly recipe: Recipe;
  readonly source: { readonly id: string; readonly label: string };
  /** The device it was made for: slices depend on it, codes do not. */
  readonly device: string;
  readonly format: Format;
  /** Present when the architecture is known; needed for evaluation. */
  readonly model: Model | undefined;
  readonly blocks: readonly PlannedBlock[];
  readonly files: readonly PlannedFile[];
  readonly sidecars: readonly Sidecar[];
  /** Stored bits per weight of the quantized weights, scales and all included. */
  readonly bitsPerWeight: number;
  /** Elements of the quantized weights. */
  readonly quantizedWeights: number;
  /** Bytes of all output files. */
  readonly totalBytes: number;
  /** Bytes of the source's tensors. */
  readonly sourceBytes: number;
  readonly memory: MemoryPlan;
  readonly loaders: readonly Loader[];
}

/** What of a device a plan depends on. */
export type DeviceLimits = Pick<Backend, "name" | "maxTensorBytes" | "sliceBytes" | "supports">;

/**
 * Plan a run from headers alone.
 *
 * @throws {UnsupportedError} something the recipe asks for cannot be done with this checkpoint, format or device.
 * @throws {CheckpointError} `config.json` has a value that a model cannot have.
 */
export function plan(
  recipe: Recipe,
  source: TensorSource,
  { device, evaluation }: { device: DeviceLimits; evaluation?: EvaluationRequest },
): Plan {
  const model = evaluation ? modelOf(source) : modelIfKnown(source);
  if (model && evaluation) checkShapes(model, (name) => source.tensors.get(name)?.shape);
  const { fates, format, weights, modelDType } = assign(recipe, source, model);
  const section = format.section(weights, modelDType);
  const steps = [...source.tensors.values()].map((tensor): Step => {
    const fate = fates.get(tensor.name)!;
    return {
      source: tensor,
      fate,
      outputs: outputsOf(tensor, fate, format),
      ...(fate.kind === "quantize"
        ? sliceOf(tensor, fate.scheme, format, device)
        : { sliceRows: 0, rowStep: 0 }),
    };
  });
  const blocks = arrange(steps, model);
  const files = layoutFiles(blocks, recipe.maxShardSize);
  const schemes = steps.flatMap(({ fate }) => fate.kind === "quantize" ? [fate.scheme] : []);
  const sidecars = sidecarsOf(source, files, {
    section,
    modelDType,
    cast: schemes.some((s) => s.kind === "cast"),
  });
  const quantized = steps.filter(({ fate }) => fate.kind === "quantize");
  const quantizedWeights = sum(quantized, ({ source }) => elementCount(source.shape));
  return {
    recipe,
    source: { id: source.id, label: source.label },
    device: device.name,
    format,
    model,
    blocks,
    files,
    sidecars,
    quantizedWeights,
    bitsPerWeight: sum(quantized, ({ outputs }) => sum(outputs, byteLength)) * 8 / quantizedWeights,
    totalBytes: sum(files, ({ size }) => size) + sum(sidecars, ({ size }) => size),
    sourceBytes: sum([...source.tensors.values()], byteLength),
    memory: budget(blocks, { device, model, evaluation }),
    loaders: format.loaders(schemes, weights),
  };
}

/**
 * The model a checkpoint's config describes.
 *
 * @param has Whether the checkpoint has a tensor of this name, quantized or not.
 * @throws {UnsupportedError} Sluice does not run this architecture, or this variant of it.
 * @throws {CheckpointError} the config has a value that a model cannot have.
 */
export function modelOf(
  source: TensorSource,
  has: (tensor: string) => boolean = (name) => source.tensors.has(name),
): Model {
  const family = familyOf(source.config);
  return family ? family.configure(source.config, has) : refuseEvaluation(source);
}

/** As {@linkcode modelOf}, but undefined where the model cannot be run: it can still be quantized without data. */
function modelIfKnown(source: TensorSource): Model | undefined {
  try {
    return modelOf(source);
  } catch (error) {
    if (error instanceof UnsupportedError) return undefined;
    throw error;
  }
}

/** @throws {UnsupportedError} always: this architecture cannot be run. */
function refuseEvaluation(source: TensorSource): never {
  const type = source.config.model_type;
  const found = type === undefined
    ? "it has no config.json with a model_type"
    : `its model_type is "${type}"`;
  throw new UnsupportedError(
    `Cannot evaluate ${source.label}: ${found}, and Sluice runs llama and mistral models. Quantize it without --evaluate.`,
    { what: String(type ?? "model_type"), reason: found },
  );
}

function sum<T>(items: readonly T[], value: (item: T) => number): number {
  return items.reduce((total, item) => total + value(item), 0);
}

function outputsOf(tensor: TensorInfo, fate: Fate, format: Format): readonly TensorInfo[] {
  switch (fate.kind) {
    case "quantize":
      return format.layout(tensor, fate.scheme);
    case "copy":
      return [tensor];
    case "drop":
      return [];
  }
}

function leastCommonMultiple(a: number, b: number): number {
  let [x, y] = [a, b];
  while (y !== 0) [x, y] = [y, x % y];
  return a / x * b;
}

/** Rows that a slice of a weight must be a multiple of, or all rows. */
export function rowStep(
  { name, shape, scheme }: Pick<StoredWeight, "name" | "shape" | "scheme">,
  format: Format,
  [rows, columns]: readonly [number, number],
): number {
  const scale = schemeKind(scheme).rowStep(scheme, [rows, columns]);
  return Math.min(
    rows,
    leastCommonMultiple(scale, format.rowStep(scheme, { name, shape, dtype: "f32" })),
  );
}

/** Rows of a slice: about what the device likes, a multiple of what scheme and format need, never over what it can bind. */
export function sliceOf(
  tensor: TensorInfo,
  scheme: Scheme,
  format: Format,
  device: DeviceLimits,
): Pick<Step, "sliceRows" | "rowStep"> {
  const [rows, columns] = matrixShape(tensor.shape);
  const step = rowStep({ ...tensor, scheme }, format, [rows, columns]);
  // The widest thing made of a slice is its dequantized f32 form, when it is measured.
  const largest = Math.floor(device.maxTensorBytes / (columns * 4));
  if (step > largest) {
    const reason =
      `${step} of its rows must be quantized together, ${
        step * columns * 4
      } bytes as float32, and ` +
      `${device.name} binds at most ${device.maxTensorBytes} bytes`;
    throw new UnsupportedError(
      `Cannot quantize "${tensor.name}": ${reason}. Use a scale per channel or group.`,
      { what: tensor.name, reason },
    );
  }
  const liked = Math.max(1, Math.floor(device.sliceBytes / (columns * BITS[tensor.dtype] / 8)));
  const most = Math.floor(Math.min(liked, largest) / step) * step;
  return { sliceRows: Math.min(rows, Math.max(step, most)), rowStep: step };
}

/** Steps in the order they are done: embedding, blocks, the rest; in file order when the architecture is unknown. */
function arrange(steps: readonly Step[], model: Model | undefined): PlannedBlock[] {
  if (!model) return [{ name: "tensors", steps }];
  const left = new Map(steps.map((step) => [step.source.name, step]));
  const take = (names: Iterable<string>): Step[] => {
    const taken: Step[] = [];
    for (const name of names) {
      const step = left.get(name);
      if (step) taken.push(step);
      left.delete(name);
    }
    return taken;
  };
  const blocks: PlannedBlock[] = [{ name: "embedding", steps: take([model.embedding]) }];
  for (const { name, linears, others } of model.blocks) {
    const own = [...left.keys()].filter((tensor) => tensor.startsWith(`${name}.`));
    const named = [
      ...others,
      ...linears.flatMap(({ weight, bias }) => bias ? [weight, bias] : [weight]),
    ];
    blocks.push({ name, steps: take([...new Set([...named, ...own])]) });
  }
  blocks.push({ name: "head", steps: take([...left.keys()]) });
  return blocks.filter(({ steps }) => steps.length > 0);
}

/** Fill shards in order; the tensors one weight becomes stay together, and so do a module's weight and bias. */
function layoutFiles(blocks: readonly PlannedBlock[], maxShardSize: number): PlannedFile[] {
  const modules = Map.groupBy(
    blocks.flatMap(({ steps }) => steps).filter(({ outputs }) => outputs.length > 0),
    ({ source }) => source.name.replace(/\.(weight|bias)$/, ""),
  );
  const shards: TensorInfo[][] = [[]];
  let filled = 0;
  for (const steps of modules.values()) {
    const tensors = steps.flatMap(({ outputs }) => outputs);
    const bytes = sum(tensors, byteLength);
    if (filled > 0 && filled + bytes > maxShardSize) {
      shards.push([]);
      filled = 0;
    }
    shards.at(-1)!.push(...tensors);
    filled += bytes;
  }
  const number = (n: number) => String(n).padStart(5, "0");
  return shards.map((tensors, i) => ({
    path: shards.length === 1
      ? "model.safetensors"
      : `model-${number(i + 1)}-of-${number(shards.length)}.safetensors`,
    // transformers 4 refuses metadata without a format (formats: "pt").
    ...layoutFile(tensors, { format: "pt" }),
  }));
}

function sidecarsOf(
  source: TensorSource,
  files: readonly PlannedFile[],
  { section, modelDType, cast }: { section: string | undefined; modelDType: string; cast: boolean },
): Sidecar[] {
  const made = (path: string, text: string): Sidecar => {
    const bytes = new TextEncoder().encode(text);
    return { path, size: bytes.length, bytes };
  };
  const sidecars: Sidecar[] = [];
  if (source.configText !== undefined || section !== undefined) {
    sidecars.push(
      made(
        "config.json",
        spliceConfig(source.configText, section, cast ? { dtype: modelDType } : {}),
      ),
    );
  }
  if (files.length > 1) {
    const entries = files.flatMap(({ path, tensors }) =>
      tensors.map(({ name }) => [name, path] as const)
    );
    entries.sort(([a], [b]) => a < b ? -1 : 1);
    const index = {
      metadata: { total_size: sum(files, ({ tensors }) => sum(tensors, byteLength)) },
      weight_map: Object.fromEntries(entries),
    };
    sidecars.push(made("model.safetensors.index.json", JSON.stringify(index, null, 2) + "\n"));
  }
  for (const { path, size } of source.files.values()) {
    if (path !== "config.json") sidecars.push({ path, size });
  }
  return sidecars;
}

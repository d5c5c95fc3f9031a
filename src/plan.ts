/**
 * What will be done, decided from headers alone: each tensor's fate, every output file with names,
 * dtypes, shapes and offsets, the bits per weight, the peak memory. Every refusal happens here,
 * before anything is written; after `plan()` only faults stop a run.
 */
import {
  assign,
  type Fate,
  inputObserver,
  isCalibrated,
  propagates,
  type Runnable,
} from "./assign.ts";
import type { Backend } from "./backend.ts";
import { budget, type Budgets, fit, type MemoryPlan, spilledBytes } from "./budget.ts";
import type { Layout } from "./container.ts";
import { isUntied } from "./content.ts";
import { CheckpointError, UnsupportedError } from "./errors.ts";
import { checkShapes, familyOf } from "./families/mod.ts";
import type { Model } from "./family.ts";
import type { Content, Format, Verdict } from "./format.ts";
import { torchName } from "./formats/config_json.ts";
import { plain } from "./formats/plain.ts";
import { type Recipe, usesOutliers } from "./recipe.ts";
import { layoutFiles, sidecarsOf } from "./shards.ts";
import { sliceOf } from "./slices.ts";
import { refuseUnusable } from "./usable.ts";
import type { TensorSource } from "./source.ts";
import { byteLength, elementCount, sum, type TensorInfo } from "./tensor.ts";

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

/**
 * How many windows will walk through a model: to measure it while it is quantized, or to calibrate
 * on.
 */
export interface WindowsRequest {
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
  /** The measurement, with as much memory for hidden states as the budgets leave. */
  readonly evaluation?: WindowsRequest;
  /** The calibration, likewise; present when a method needs one. */
  readonly calibration?: WindowsRequest;
  /**
   * Whether targets are moved in the calibration, for which the original's hidden states walk
   * along.
   */
  readonly propagate: boolean;
  /** Bytes of hidden states on disk at once. */
  readonly spilledBytes: number;
  readonly loaders: readonly Verdict[];
  /** What a user should know before the run, which reports it. */
  readonly warnings: readonly { readonly code: string; readonly message: string }[];
}

/** What a plan needs to know of windows that were prepared. */
export function requestOf(
  { seqLen, windows, stateBudget }: Omit<WindowsRequest, "windows"> & {
    readonly windows: { readonly length: number };
  },
): WindowsRequest {
  return { seqLen, windows: windows.length, stateBudget };
}

/** What of a device a plan depends on. */
export type DeviceLimits = Pick<
  Backend,
  "name" | "maxTensorBytes" | "memoryBytes" | "sliceBytes" | "supports"
>;

/**
 * Plan a run from headers alone.
 *
 * @throws {UnsupportedError} something the recipe asks for cannot be done with this checkpoint,
 * format or device, or within the budgets.
 * @throws {CheckpointError} `config.json` has a value that a model cannot have.
 */
export function plan(
  recipe: Recipe,
  source: TensorSource,
  { device, evaluation: asked, calibration: given, budgets = {} }: {
    device: DeviceLimits;
    evaluation?: WindowsRequest;
    /** Required when a method of the recipe is calibrated; not used when none is. */
    calibration?: WindowsRequest;
    budgets?: Budgets;
  },
): Plan {
  refuseUnusable(source);
  refuseUnsettled(recipe);
  const runnable = asked ? { model: modelOf(source) } : modelIfAny(source);
  const { model } = runnable;
  const { fates, format, weights, modelDType, warnings } = assign(recipe, source, runnable);
  const calibration = calibrationOf(fates, given);
  const propagate = propagates(recipe, fates.values());
  if (model && (asked || calibration)) {
    checkShapes(model, (name) => source.tensors.get(name)?.shape);
  }
  const content: Content = { weights, config: source.config, dtype: torchName(modelDType) };
  const section = format.section(content);
  const tensors = [...source.tensors.values()].map((tensor) => {
    const fate = fates.get(tensor.name)!;
    return { source: tensor, fate, outputs: outputsOf(tensor, fate, format) };
  });
  const { blocks, windows, memory } = fit(
    ({ sliceBytes, windows }) => {
      const limits = { ...device, sliceBytes };
      const steps = tensors.map((tensor): Step => ({
        ...tensor,
        ...(tensor.fate.kind === "quantize"
          ? sliceOf(tensor.source, tensor.fate.scheme, format, limits)
          : { sliceRows: 0, rowStep: 0 }),
      }));
      const blocks = arrange(steps, model);
      const memory = budget(blocks, {
        device,
        format,
        model,
        windows,
        propagate,
        buffers: source.bufferBytes ?? 0,
      });
      return { blocks, windows, memory };
    },
    {
      device,
      model,
      windows: {
        ...(asked ? { evaluation: asked } : {}),
        ...(calibration ? { calibration } : {}),
      },
      propagate,
      budgets,
    },
  );
  const steps = blocks.flatMap((block) => block.steps);
  const files = layoutFiles(blocks, recipe.maxShardSize);
  const schemes = steps.flatMap(({ fate }) => fate.kind === "quantize" ? [fate.scheme] : []);
  const loaders = format.loaders(content);
  const sidecars = sidecarsOf(source, files, {
    section,
    format,
    modelDType,
    cast: schemes.some((s) => s.kind === "cast") || announcesDoubles(source.config),
    untied: isUntied(content),
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
    memory,
    ...windows,
    propagate,
    spilledBytes: spilledBytes(model, windows, { propagate }),
    loaders,
    warnings: [...warnings, ...warningOf(loaders, format, quantized)],
  };
}

/** Told before the run where no loader is known to open the result, and what would be opened. */
function warningOf(
  loaders: readonly Verdict[],
  format: Format,
  quantized: readonly Step[],
): { code: string; message: string }[] {
  if (loaders.some(({ opens }) => opens === "yes")) return [];
  const hopes = loaders.filter(({ opens }) => opens === "unknown");
  const holds = ({ source, fate }: Step) =>
    fate.kind === "quantize" && plain.supports(fate.scheme, source) === true;
  const other = format !== plain && quantized.every(holds)
    ? " Format plain writes the rounded values as ordinary weights, which whatever opens the original opens."
    : "";
  const message = hopes.length === 0
    ? `No loader opens this model in ${format.name}: ${loaders[0]!.why}.`
    : `No loader is known to open this model in ${format.name}; of ${
      hopes.map(({ name }) => name).join(", ")
    } nothing is known (${hopes[0]!.why}).`;
  return [{ code: "no-loader", message: message + other }];
}

/** Whether config.json says that the weights are float64, which are read and written as float32. */
function announcesDoubles(config: TensorSource["config"]): boolean {
  return [config.dtype, config.torch_dtype].includes("float64");
}

/**
 * @throws {UnsupportedError} the recipe leaves a threshold to data that nobody has looked at yet.
 */
function refuseUnsettled({ rules, outlierQuantile }: Recipe): void {
  const open = rules.some((rule) => usesOutliers(rule) && rule.options.threshold === undefined);
  if (outlierQuantile === undefined || !open) return;
  throw new UnsupportedError(
    "Cannot plan with `outlier-quantile`: the threshold must be found first (outlierThreshold) and put into the recipe (withThreshold).",
    { what: "outlier-quantile", reason: "the threshold is not known yet" },
  );
}

/**
 * Whether a recipe calibrates anything of a checkpoint, so that `plan` must be given windows of a
 * text.
 *
 * @throws {UnsupportedError} the recipe asks for what cannot be done.
 */
export function needsCalibration(recipe: Recipe, source: TensorSource): boolean {
  refuseUnusable(source);
  const { fates } = assign(recipe, source, modelIfAny(source));
  return [...fates.values()].some((fate) => fate.kind === "quantize" && isCalibrated(fate));
}

/**
 * The calibration of a plan; undefined when nothing is calibrated.
 *
 * @throws {UnsupportedError} something is, and there are no windows.
 */
function calibrationOf(
  fates: ReadonlyMap<string, Fate>,
  given: WindowsRequest | undefined,
): WindowsRequest | undefined {
  const found = [...fates].find(([, fate]) => fate.kind === "quantize" && isCalibrated(fate));
  if (!found || given) return found && given;
  const [name, fate] = found;
  const method = fate.kind === "quantize" ? fate.chain.name : "";
  const isStatic = fate.kind === "quantize" &&
    inputObserver(fate.scheme, fate.rule.options) !== undefined;
  const [how, other] = isStatic
    ? ["with static activations", "dynamic activations, which need none"]
    : [`by ${method}`, "method rtn, which needs none"];
  throw new UnsupportedError(
    `Cannot quantize "${name}" ${how} without calibration: give windows of a text (prepareCalibration), or ${other}.`,
    { what: name, reason: `${method} must see its inputs` },
  );
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

/**
 * As {@linkcode modelOf}, but undefined where the model cannot be run, with the reason: what needs
 * no forward pass needs no model.
 *
 * @throws {CheckpointError} the config has a value that a model cannot have.
 */
export function modelIfAny(source: TensorSource): Runnable {
  try {
    return { model: modelOf(source) };
  } catch (error) {
    if (error instanceof UnsupportedError) return { reason: error.reason };
    // Of a tensor that is not there; a config with a value that nothing can have is broken for all
    // uses.
    if (error instanceof CheckpointError && error.tensor !== undefined) {
      return { reason: reasonOf(error) };
    }
    throw error;
  }
}

/** What a sentence says after "Cannot …: ", without its end. */
function reasonOf({ message }: CheckpointError): string {
  return message.replace(/^Cannot [^:]+: /, "").replace(/\.$/, "");
}

/** @throws {UnsupportedError} always: this architecture cannot be run. */
function refuseEvaluation(source: TensorSource): never {
  const type = source.config.model_type;
  const found = type === undefined
    ? "it has no config.json with a model_type"
    : `its model_type is "${type}"`;
  throw new UnsupportedError(
    `Cannot evaluate ${source.label}: ${found}, and Sluice runs llama and mistral models. Quantize it without \`evaluation\`.`,
    { what: String(type ?? "model_type"), reason: found },
  );
}

function outputsOf(tensor: TensorInfo, fate: Fate, format: Format): readonly TensorInfo[] {
  switch (fate.kind) {
    case "quantize":
      return format.layout(tensor, fate.scheme);
    case "copy":
      return [{ ...tensor, dtype: fate.dtype ?? tensor.dtype }];
    case "scale":
      return [tensor];
    case "drop":
      return [];
  }
}

/**
 * Steps in the order they are done: embedding, blocks, the rest; in file order when the
 * architecture is unknown.
 */
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

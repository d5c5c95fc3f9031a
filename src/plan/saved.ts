/**
 * A plan as JSON, and back. All of it is written, to the byte of each file's head, but for what has
 * a name (the format, methods) or follows from the checkpoint (the graph of the model).
 */
import { quote, RequestError } from "../errors.ts";
import { formatNamed } from "../formats/mod.ts";
import { sha256 } from "../hash.ts";
import { checkRelativePath } from "../io/names.ts";
import { isObject, parseObject } from "../json.ts";
import { chainNamed } from "../methods/mod.ts";
import type { Recipe } from "../recipe.ts";
import type { TensorSource } from "../source.ts";
import { VERSION } from "../version.ts";
import { modelIfAny } from "./model.ts";
import type { Plan } from "./planned.ts";

/** What a saved plan says of itself. */
interface SavedPlan {
  readonly plan: 1;
  /** Of Sluice; another may plan otherwise. */
  readonly version: string;
  /** Of `content`, so that one that was changed by hand is not run. */
  readonly sha256: string;
  readonly content: Readonly<Record<string, unknown>>;
}

/** A plan as JSON. */
export async function planJson(plan: Plan): Promise<string> {
  const content = JSON.parse(JSON.stringify(plan, replace)) as SavedPlan["content"];
  const saved: SavedPlan = { plan: 1, version: VERSION, sha256: await hashOf(content), content };
  return JSON.stringify(saved);
}

/** What JSON holds of a plan. */
export interface ReadPlan {
  readonly recipe: Recipe;
  /**
   * The plan, of its checkpoint.
   *
   * @throws {RequestError} it is of another one.
   */
  of(source: TensorSource): Plan;
}

/**
 * The plan that JSON holds.
 *
 * @param name What a sentence calls it.
 * @throws {RequestError} it is no plan, one of another version, or it was changed.
 */
export async function parsePlan(text: string, name: string): Promise<ReadPlan> {
  const refuse = (found: string): never => {
    throw new RequestError(`Cannot use the plan ${quote(name)}: ${found}.`);
  };
  const root = parseObject(text);
  if (root?.plan !== 1 || !isObject(root.content)) {
    return refuse("it is not what `planJson` writes. Plan anew");
  }
  const { version, sha256: written, content } = root as unknown as SavedPlan;
  if (version !== VERSION) {
    refuse(`it is of version ${version}, and this is ${VERSION}. Plan anew`);
  }
  if (await hashOf(content) !== written) refuse("it was changed. Change what it is made from");
  const found = JSON.parse(JSON.stringify(content), revive) as Omit<Plan, "model"> & {
    readonly model: boolean;
  };
  for (const { path } of [...found.files, ...found.sidecars]) {
    const reason = checkRelativePath(path);
    if (reason !== true) refuse(`it has a file ${quote(path)}, ${reason}`);
  }
  return {
    recipe: found.recipe,
    of(source) {
      if (found.source.id !== source.id) {
        refuse(`it is of ${found.source.label}, which has other headers than ${source.label}`);
      }
      const { model } = found.model ? modelIfAny(source) : {};
      const units = found.units.map((unit) => ({ ...unit, place: unit.place }));
      return { ...found, units, model, matrixPlaces: found.matrixPlaces };
    },
  };
}

/** How values that JSON has no word for are written. */
function replace(key: string, value: unknown): unknown {
  if (key === "model") return value !== undefined;
  if (key === "format" && isObject(value)) return { named: "format", name: value.name };
  if (key === "chain" && isObject(value)) return { named: "chain", name: value.name };
  if (value instanceof Uint8Array) return { named: "bytes", base64: value.toBase64() };
  return value === Infinity ? { named: "infinity" } : value;
}

function revive(_key: string, value: unknown): unknown {
  if (!isObject(value) || typeof value.named !== "string") return value;
  switch (value.named) {
    case "format":
      return formatNamed(String(value.name));
    case "chain":
      return chainNamed(String(value.name));
    case "bytes":
      return Uint8Array.fromBase64(String(value.base64));
    case "infinity":
      return Infinity;
  }
  return value;
}

async function hashOf(content: SavedPlan["content"]): Promise<string> {
  return await sha256(JSON.stringify(content));
}

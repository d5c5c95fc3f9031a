/**
 * A file of many quantizations: models by recipes, as YAML or JSON. Refuses keys that it does not
 * know, names that are no folder's, and jobs of one name; flags are checked by the command itself.
 *
 * ```yaml
 * output: quantized
 * models: [sample, org/name]
 * recipes:
 *   w4: { scheme: W4A16, group_size: 64 }
 *   nf4: { scheme: NF4 }
 *   own: { recipe: recipe.yaml }
 * flags: { evaluate: true, num_samples: 64 }
 * upload: me/{model}-{recipe}
 * ```
 */
import defer * as yaml from "yaml";
import { quote, RequestError } from "../errors.ts";
import { isObject } from "../json.ts";

/** One quantization. */
export interface Job {
  readonly model: string;
  readonly recipe: string;
  /** Its folder's name. */
  readonly name: string;
  /** The words behind `quantize`, but for `--output`. */
  readonly words: readonly string[];
  /** The repository that it is published as; absent: none. */
  readonly target?: string;
}

/** What a file asks for. */
export interface BatchFile {
  /** The folder of all outputs. */
  readonly output: string;
  readonly jobs: readonly Job[];
}

const KEYS: ReadonlySet<string> = new Set(["output", "models", "recipes", "flags", "upload"]);

/** Flags that the batch gives, or that make no sense within one. */
const OWN: ReadonlySet<string> = new Set(["output", "upload-repo", "dry-run", "json", "quiet"]);

/**
 * Read such a file.
 *
 * @param file Its name, for messages.
 * @throws {RequestError} it is none.
 */
export function parseBatch(text: string, file: string): BatchFile {
  const refuse = (found: string): never => {
    throw new RequestError(`Cannot use the batch ${quote(file)}: ${found}.`);
  };
  const root = parsed(text, refuse);
  const unknown = Object.keys(root).find((key) => !KEYS.has(key));
  if (unknown !== undefined) {
    refuse(`it has the key ${quote(unknown)}, and may have ${[...KEYS].join(", ")}`);
  }
  const { output, models, recipes, flags = {}, upload } = root;
  if (typeof output !== "string" || output === "") {
    return refuse("`output` must be the folder that all outputs go to");
  }
  if (upload !== undefined && typeof upload !== "string") {
    return refuse("`upload` must be a repository, as me/{model}-{recipe}");
  }
  if (!Array.isArray(models) || models.length === 0) {
    return refuse("`models` must be a list of models, as [sample, org/name]");
  }
  if (!isObject(recipes) || Object.keys(recipes).length === 0) {
    return refuse("`recipes` must have flags of `quantize` by name, as w4: { scheme: W4A16 }");
  }
  const common = wordsOf(flags, "flags", refuse);
  const made = models.flatMap((entry: unknown) => {
    const { model, called } = modelOf(entry, refuse);
    return Object.entries(recipes).map(([recipe, own]): Job => {
      const name = `${called}-${recipe}`;
      if (!/^[\w.+-]+$/.test(name) || name.startsWith(".")) {
        refuse(`${quote(name)} is no name of a folder`);
      }
      const target = String(upload ?? "").replaceAll("{model}", called)
        .replaceAll("{recipe}", recipe);
      const words = [
        model,
        ...wordsOf(own, `recipes.${recipe}`, refuse),
        ...common,
        ...(upload === undefined ? [] : ["--upload-repo", target]),
      ];
      return { model, recipe, name, words, ...(upload === undefined ? {} : { target }) };
    });
  });
  for (const { name, target } of made) {
    if (target !== undefined && made.filter((other) => other.target === target).length > 1) {
      refuse(`\`upload\` names ${quote(target)} for two jobs; give it {model} and {recipe}`);
    }
    if (made.filter((other) => other.name === name).length > 1) {
      refuse(`two of its jobs are called ${quote(name)}; give a model a \`name\``);
    }
  }
  return { output, jobs: made };
}

function parsed(text: string, refuse: (found: string) => never): Record<string, unknown> {
  try {
    const root: unknown = yaml.parse(text);
    return isObject(root) ? root : refuse("it holds no keys with values");
  } catch (error) {
    if (!(error instanceof yaml.YAMLError)) throw error;
    return refuse(`it is neither YAML nor JSON (${error.message.split("\n")[0]})`);
  }
}

/** `org/name`, or `{ model: org/name, name: short }`. */
function modelOf(
  entry: unknown,
  refuse: (found: string) => never,
): { readonly model: string; readonly called: string } {
  if (typeof entry === "string" && entry !== "") return { model: entry, called: lastOf(entry) };
  if (!isObject(entry) || typeof entry.model !== "string") {
    return refuse("a model is a name, or { model: org/name, name: short }");
  }
  const { model, name = lastOf(model), ...others } = entry;
  const [other] = Object.keys(others);
  if (other !== undefined) refuse(`a model has the key ${quote(other)}, and may have model, name`);
  if (typeof name !== "string") return refuse("a model's `name` must be a text");
  return { model, called: name };
}

/** `name` of `org/name@revision` or of a path. */
function lastOf(model: string): string {
  return model.replace(/@.*$/, "").split(/[\\/]/).filter(Boolean).at(-1) ?? model;
}

/** A command line's words for flags by name. */
function wordsOf(
  flags: unknown,
  where: string,
  refuse: (found: string) => never,
): readonly string[] {
  if (!isObject(flags)) return refuse(`\`${where}\` must have flags of \`quantize\` with values`);
  return Object.entries(flags).flatMap(([key, value]) => {
    const name = key.replaceAll("_", "-");
    if (OWN.has(name)) refuse(`\`${where}\` has ${quote(key)}, which is the batch's own`);
    const values: unknown[] = Array.isArray(value) ? value : [value];
    return values.flatMap((one) => {
      if (one === true) return [`--${name}`];
      if (one === false) return [`--no-${name}`];
      if (typeof one === "string" || typeof one === "number") return [`--${name}`, String(one)];
      return refuse(`\`${where}.${key}\` must be a text, a number, true, false, or a list of them`);
    });
  });
}

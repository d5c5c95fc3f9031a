/** Lists of modules that loaders must leave alone, and what transformers makes of such a list. */
import type { Content } from "../format.ts";
import { plainHead } from "./architectures.ts";
import { moduleOf } from "./bytes.ts";
import { escaped, leftAlone, towerOf } from "./layer_patterns.ts";

/**
 * Linear layers that stay as they were, by their modules, the output head's included though it may
 * have no weight of its own; parts beside the text model of which nothing is quantized as wholes:
 * transformers has its own names for what is in them.
 */
export function plainModules(
  content: Content,
): { readonly modules: readonly string[]; readonly towers: readonly string[] } {
  const quantized = new Set(
    content.weights.flatMap(({ name, scheme }) => scheme ? towerOf(name) : []),
  );
  const modules = new Set<string>();
  const towers = new Set<string>();
  for (const { module } of leftAlone(content.weights)) {
    const tower = towerOf(module);
    if (tower === undefined || quantized.has(tower)) modules.add(module);
    else towers.add(tower);
  }
  const head = plainHead(content);
  if (head !== undefined) modules.add(head);
  return { modules: [...modules], towers: [...towers] };
}

/**
 * The list of bitsandbytes and AWQ. An explicit list replaces transformers' own; towers are named
 * for vLLM, and as patterns for transformers.
 */
export function skippedModules(content: Content): string[] {
  const { modules, towers } = plainModules(content);
  return [...modules, ...towers.flatMap((tower) => [tower, `.*${tower}`])];
}

/**
 * A quantized layer that the list names by mistake, as a reason: an entry stands for every module
 * whose path it begins, up to a dot, or ends (`should_convert_module` of transformers 5.23).
 */
export function skippedByMistake(content: Content): string | undefined {
  const { modules: entries } = plainModules(content);
  for (const { name, scheme } of content.weights) {
    const module = scheme && moduleOf(name);
    if (module === undefined) continue;
    const entry = entries.find((entry) => {
      const begins = escaped(entry).replaceAll("\\.", ".");
      return module.endsWith(entry) || new RegExp(`^(?:${begins})(?=\\.|$)`).test(module);
    });
    if (entry !== undefined) {
      return `its list of layers to leave alone has "${entry}", and so names "${module}" too; ` +
        "quantize both or neither";
    }
  }
  return undefined;
}

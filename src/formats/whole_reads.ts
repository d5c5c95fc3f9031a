/** Stored tensors that are read whole for every slice of a weight, read once. */
import type { ReadTensor } from "../format.ts";

/**
 * The same reads, but whole tensors are kept until one of another module is read: where rows of a
 * weight are columns of what is stored (GPTQ, AWQ), every slice of it needs all of its tensors.
 */
export function keepWhole(read: ReadTensor): ReadTensor {
  let module: string | undefined;
  const kept = new Map<string, ReturnType<ReadTensor>>();
  return (name, rows) => {
    if (rows) return read(name, rows);
    const owner = name.slice(0, name.lastIndexOf("."));
    if (owner !== module) kept.clear();
    module = owner;
    return kept.getOrInsertComputed(name, (name) => read(name));
  };
}

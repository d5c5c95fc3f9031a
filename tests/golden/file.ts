/** Files of tensors that the real libraries wrote, and what Sluice makes of the weights in them. */
import type { Backend } from "../../src/backend.ts";
import { parseHeader } from "../../src/containers/safetensors.ts";
import type { Format } from "../../src/format.ts";
import type { Scheme } from "../../src/scheme.ts";
import { schemeKind } from "../../src/schemes/mod.ts";
import type { TensorSource } from "../../src/source.ts";
import { withInputScale } from "../conformance/given.ts";

/** A file of this folder as a source without config. */
export interface GoldenFile extends Pick<TensorSource, "tensors" | "read"> {
  readonly metadata: Readonly<Record<string, string>>;
  bytes(name: string): Uint8Array<ArrayBuffer>;
}

/** Open a file of this folder. */
export function goldenFile(file: string): GoldenFile {
  const data = Deno.readFileSync(new URL(file, import.meta.url));
  const { tensors, metadata } = parseHeader(data, { file, fileSize: data.length });
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const bytes = (name: string) => {
    const { begin, end } = byName.get(name)!;
    return data.slice(begin, end);
  };
  return {
    metadata: metadata!,
    tensors: byName,
    bytes,
    read(name, rows) {
      const whole = bytes(name);
      if (!rows) return Promise.resolve(whole);
      const rowBytes = whole.length / byName.get(name)!.shape[0]!;
      return Promise.resolve(whole.slice(rows.from * rowBytes, rows.to * rowBytes));
    },
  };
}

/** Quantize `original.<key>` of a golden file by rounding to nearest and pack it as `name`. */
export async function packGolden(
  source: GoldenFile,
  { key, name, scheme, format, backend, inputScale = 1 }: {
    readonly key: string;
    readonly name: string;
    readonly scheme: Scheme;
    readonly format: Format;
    readonly backend: Backend;
    /** For schemes that fix it. */
    readonly inputScale?: number;
  },
): Promise<Map<string, Uint8Array>> {
  const { dtype, shape } = source.tensors.get(`original.${key}`)!;
  using scope = backend.scope();
  const weight = scope.alloc(dtype as "bf16", shape);
  backend.write(weight, source.bytes(`original.${key}`));
  const rounded = await schemeKind(scheme).quantize(scheme, weight, { scope, search: "minmax" });
  const quantized = withInputScale(rounded, inputScale, scope);
  const packer = format.packer({ name, dtype, shape }, scheme, scope);
  const pieces = [
    ...await packer.add(quantized, { from: 0, to: shape[0]! }),
    ...await packer.finish(),
  ];
  return new Map(pieces.map(({ tensor, bytes }) => [tensor, bytes]));
}

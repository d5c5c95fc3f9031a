/** Weights under their own names, in another float dtype: what every loader opens. Holds casts only. */
import { CheckpointError } from "../errors.ts";
import type { Format, Loader, Packer } from "../format.ts";
import type { CastScheme } from "../scheme.ts";
import { BITS, matrixShape, type TensorInfo } from "../tensor.ts";
import { refuseNaN } from "../usable.ts";
import { checkRows, checkSource, readPart } from "./bytes.ts";

/** @throws {CheckpointError} a value became infinite when it was rounded to f16. */
function checkHalves(bytes: Uint8Array<ArrayBuffer>, weight: string): void {
  const halves = new Uint16Array(bytes.buffer, bytes.byteOffset, bytes.length / 2);
  let infinite = 0;
  for (let i = 0; i < halves.length; i++) infinite += Number((halves[i]! & 0x7fff) === 0x7c00);
  if (infinite === 0) return;
  throw new CheckpointError(
    `Cannot cast "${weight}" to f16: it holds infinity or a value past 65504; bf16 has room for it`,
    { tensor: weight },
  );
}

/** A checkpoint that is not quantized, with its weights cast. */
export const plain: Format = {
  name: "plain",
  quantMethod: undefined,
  supports(scheme, weight) {
    if (scheme.kind !== "cast") return `plain holds casts, not ${scheme.kind}`;
    const source = checkSource("plain", { ...weight, name: "any.weight", shape: [1, 1] });
    return source === true || `"${weight.name}" is ${weight.dtype}; f32, bf16 and f16 are cast`;
  },
  rowStep: () => 1,
  layout({ name, shape }, scheme): TensorInfo[] {
    return [{ name, dtype: (scheme as CastScheme).dtype, shape }];
  },
  packer({ name, shape }, scheme, scope): Packer {
    const { dtype } = scheme as CastScheme;
    const [rows, columns] = matrixShape(shape);
    return {
      async add({ tensors }, slice) {
        checkRows(slice, { name, rows, step: 1 });
        const [bytes] = await scope.backend.read(tensors.weight!) as [Uint8Array<ArrayBuffer>];
        refuseNaN({ name, dtype }, bytes, "cast");
        if (dtype === "f16") checkHalves(bytes, name);
        return [{ tensor: name, offset: slice.from * columns * BITS[dtype] / 8, bytes }];
      },
      finish: () => Promise.resolve([]),
    };
  },
  section: () => undefined,
  recognize: () => Promise.resolve(undefined),
  async unpack({ name, shape, scheme, parts }, read, { scope, rows }) {
    const [height, columns] = matrixShape(shape);
    const slice = rows ?? { from: 0, to: height };
    checkRows(slice, { name, rows: height, step: 1 });
    const count = slice.to - slice.from;
    const weight = scope.alloc((scheme as CastScheme).dtype, [count, columns]);
    scope.backend.write(weight, await readPart(parts[0]!, read, rows));
    return { scheme, rows: count, columns, tensors: { weight } };
  },
  loaders(): Loader[] {
    return [{
      name: "any",
      takes: true,
      why: "weights are under their own names, in a dtype every loader of safetensors reads",
    }];
  },
};

/**
 * The WGSL kernels of the matrix products and of attention side by side, the plain one and each
 * variant, at the sizes of a large model on a GPU, at small ones on a software adapter. The ratio is
 * of the kernel that a run takes to the fastest of the others; a torch that has CUDA gives the
 * float32 rate of the same card in the same run.
 */
import type { Tensor } from "../../src/backend.ts";
import { openWebgpu, type WebgpuBackend } from "../../src/backends/webgpu/mod.ts";
import {
  argumentsOf,
  bindDims,
  chosenVariant,
  type DeviceDType,
  fittingVariants,
  type Op,
  type Scalars,
} from "../../src/op.ts";
import { attention, gemm, matmulNt, matmulPacked } from "../../src/ops/mod.ts";
import { byteLength } from "../../src/tensor.ts";
import { findPython, openPresent, runScript } from "./environment.ts";
import { compare, flopRate, type Ratio, type Skipped } from "./measure.ts";

/** One product: a call, and the multiply-adds in it. */
interface Product {
  readonly what: string;
  readonly op: Op;
  readonly tensors: Readonly<Record<string, readonly [dtype: DeviceDType, shape: number[]]>>;
  readonly scalars: Scalars;
  readonly work: number;
  /** T, C, R of a product that torch is asked for, too. */
  readonly torch?: readonly [number, number, number];
}

function floatProduct(dtype: "f32" | "bf16" | "f16", [T, C, R]: [number, number, number]): Product {
  return {
    what: `matmul_nt ${dtype}, T×R = ${T}×${R}, C = ${C}`,
    op: matmulNt,
    tensors: { x: ["f32", [T, C]], w: [dtype, [R, C]], y: ["f32", [T, R]] },
    scalars: { column: 0 },
    work: T * R * C,
    ...(dtype === "bf16" ? { torch: [T, C, R] } : {}),
  };
}

function packedProduct(bits: number, [T, C, R]: [number, number, number]): Product {
  return {
    what: `matmul_packed ${bits} bits, T×R = ${T}×${R}, C = ${C}`,
    op: matmulPacked,
    tensors: {
      x: ["f32", [T, C]],
      w: ["u32", [R, C * bits / 32]],
      scale: ["f32", [R, C / 64]],
      zero: ["i8", [R, C / 64]],
      y: ["f32", [T, R]],
    },
    scalars: { bits, column: 0 },
    work: T * R * C,
  };
}

/** What calibration asks of gemm: Gram matrices, products with them, GPTQ's updates. */
function rectangles(
  what: string,
  [m, n, k]: readonly [number, number, number],
  given: { a_transposed?: 0 | 1; b_transposed?: 0 | 1; half?: 0 | 1 },
): Product {
  const { a_transposed = 0, b_transposed = 0, half = 0 } = given;
  const shape = (rows: number, turned: number) => turned ? [k, rows] : [rows, k];
  return {
    what: `${what}, ${m}×${n}, k = ${k}`,
    op: gemm,
    tensors: {
      a: ["f32", shape(m, a_transposed)],
      b: ["f32", shape(n, b_transposed)],
      c: ["f32", [m, n]],
    },
    scalars: {
      ...{ m, n, k, a_row: 0, a_column: 0, a_transposed, b_row: 0, b_column: 0, b_transposed },
      ...{ c_row: 0, c_column: 0, add: 1, half, diagonal: 0, alpha: 1 },
    },
    work: m * n * k / (half ? 2 : 1),
  };
}

/** Causal attention of one window: half of the scores count. */
function attend(T: number, [heads, shared, d]: readonly [number, number, number]): Product {
  return {
    what: `attention of ${T} tokens, ${heads} heads of ${d} that share ${shared}`,
    op: attention,
    tensors: {
      q: ["f32", [T, heads * d]],
      k: ["f32", [T, shared * d]],
      v: ["f32", [T, shared * d]],
      bias: ["f32", [1, 1]],
      o: ["f32", [T, heads * d]],
    },
    scalars: { head_dim: d, window: 0, scale: d ** -0.5, cap: 0, biased: 0, length: T },
    work: heads * T * T * d,
  };
}

function productsOf({ software }: WebgpuBackend): Product[] {
  const C = software ? 256 : 4096;
  const sizes = software
    ? [[128, 256], [256, 384]]
    : [[512, 4096], [2048, 4096], [2048, 14336], [8192, 14336]];
  const tokens = software ? [128] : [512, 2048, 8192];
  return [
    ...sizes.flatMap(([T = 0, R = 0]) => [
      ...(["bf16", "f16", "f32"] as const).map((dtype) => floatProduct(dtype, [T, C, R])),
      ...[4, 3].map((bits) => packedProduct(bits, [T, C, R])),
    ]),
    ...tokens.map((T) =>
      rectangles("Gram, half of it", [C, C, T], { a_transposed: 1, b_transposed: 1, half: 1 })
    ),
    rectangles("a·b", [C, C, C], { b_transposed: 1 }),
    rectangles("a·bᵀ", [C, C, C], {}),
    rectangles("GPTQ's update of 128 columns", [C, 128, C / 2], {}),
    ...(software ? [64] : [512, 2048]).flatMap((T) => [
      attend(T, [32, 8, software ? 16 : 128]),
      attend(T, [9, 3, 64]),
    ]),
  ];
}

/** Bytes that look like noise, but for floats whose exponents are in the middle. */
function fill(backend: WebgpuBackend, tensor: Tensor): void {
  const bytes = new Uint8Array(byteLength(tensor));
  const words = new Uint32Array(bytes.buffer, 0, bytes.length >> 2);
  let state = 1;
  const next = () => state = Math.imul(state, 1664525) + 1013904223 | 0;
  // Signs and fractions of a noise, and exponents of 2^-8 to 2^-1.
  const masks: Partial<Record<DeviceDType, readonly [and: number, or: number]>> = {
    f32: [0x83ffffff, 0x3c000000],
    bf16: [0x83ff83ff, 0x3c003c00],
    f16: [0x9fff9fff, 0x20002000],
  };
  const [and, or] = masks[tensor.dtype as DeviceDType] ?? [0xffffffff, 0];
  for (let i = 0; i < words.length; i++) words[i] = next() & and | or;
  backend.write(tensor, bytes);
}

/** Rates of every kernel that computes a product. */
async function measure(
  backend: WebgpuBackend,
  { what, op, tensors: given, scalars, work }: Product,
  rounds: number,
): Promise<Ratio & { readonly rate: number }> {
  using scope = backend.scope();
  const tensors = Object.fromEntries(
    Object.entries(given).map(([name, [dtype, shape]]) => [name, scope.alloc(dtype, shape)]),
  );
  const names = argumentsOf(op).map(([name]) => name);
  const call = {
    dims: bindDims(op, tensors, scalars),
    scalars,
    dtypes: names.map((name) => tensors[name]!.dtype),
  };
  const kernels = [
    { ...op, name: "plain", variants: [] },
    ...fittingVariants(op, call).map(({ op }) => op),
  ];
  const output = tensors[names.at(-1)!]!;
  for (const name of names.slice(0, -1)) fill(backend, tensors[name]!);

  // Every kernel must agree with the plain one, or its rate means nothing.
  let right: Float32Array | undefined;
  for (const kernel of kernels) {
    backend.write(output, new Uint8Array(byteLength(output)));
    backend.run(kernel, tensors, scalars);
    const [bytes] = await backend.read(output);
    const got = new Float32Array(bytes!.buffer);
    right ??= got;
    const size = Math.sqrt(right.reduce((sum, value) => sum + value * value, 0) / right.length);
    const wrong = got.findIndex((value, i) => !(Math.abs(value - right![i]!) <= 1e-3 * size));
    if (wrong >= 0) {
      throw new Error(`${what}: ${kernel.name} gives ${got[wrong]}, not ${right[wrong]}`);
    }
  }

  /** Seconds of `times` products, without what an idle wait costs. */
  const seconds = async (kernel: Op, times: number) => {
    const begun = performance.now();
    await backend.finish();
    const idle = performance.now();
    for (let i = 0; i < times; i++) backend.run(kernel, tensors, scalars);
    await backend.finish();
    return (performance.now() - idle - (idle - begun)) / 1000;
  };
  // An idle card runs at a fraction of its clock.
  const begun = performance.now();
  while (!backend.software && performance.now() - begun < 300) await seconds(kernels.at(-1)!, 1);
  const least = backend.software ? 0.02 : 0.1;
  let times = 1;
  while (await seconds(kernels.at(-1)!, times) < least) times *= 2;
  const rates = await compare(
    kernels.map((kernel) => ({
      name: kernel.name,
      work: 2 * work * times,
      turn: () => seconds(kernel, times),
    })),
    { rounds },
  );
  const chosen = chosenVariant(op, call);
  const { rate } = rates[kernels.indexOf(chosen)]!;
  const [best] = rates.filter(({ name }) => name !== chosen.name).sort((a, b) => b.rate - a.rate);
  return {
    what: `${what}: ${chosen.name}`,
    ours: flopRate(rate),
    ...(best ? { against: `${best.name}: ${flopRate(best.rate)}`, ratio: rate / best.rate } : {}),
    // The choice is made for GPUs.
    ...(backend.software ? {} : { goal: 0.95 }),
    device: backend.description,
    rate,
  };
}

/** Seconds of the same products in torch's float32, or why there are none. */
async function torchSeconds(
  products: readonly Product[],
  rounds: number,
): Promise<{ readonly seconds: readonly number[]; readonly device: string } | Skipped> {
  const found = await findPython("torch");
  if ("skipped" in found) return found;
  const sizes = products.map(({ torch }) => torch!.join());
  return await runScript(found.python, "torch_matmul.py", [`${rounds}`, ...sizes]) as
    | { readonly seconds: readonly number[]; readonly device: string }
    | Skipped;
}

/** Run it. */
export async function run(rounds = 5): Promise<(Ratio | Skipped)[]> {
  const opened = await openPresent(openWebgpu);
  if ("skipped" in opened) return [{ skipped: `WGSL products. ${opened.skipped}` }];
  await using backend = opened;
  const results: (Ratio | Skipped)[] = [];
  const rates = new Map<Product, number>();
  for (const product of productsOf(backend)) {
    const bytes = Object.values(product.tensors).map(([dtype, shape]) =>
      byteLength({ dtype, shape })
    );
    if (Math.max(...bytes) > backend.maxTensorBytes) {
      const limit = `${backend.description} binds ${backend.maxTensorBytes} bytes at most.`;
      results.push({ skipped: `${product.what}. ${limit}` });
      continue;
    }
    const { rate, ...ratio } = await measure(backend, product, rounds);
    rates.set(product, rate);
    results.push(ratio);
  }
  const asked = [...rates.keys()].filter(({ torch }) => torch);
  const torch = await torchSeconds(asked, rounds);
  if ("skipped" in torch) {
    return [...results, { skipped: `torch's float32 products on a GPU. ${torch.skipped}` }];
  }
  return [
    ...results,
    ...asked.map((product, i): Ratio => {
      const theirs = 2 * product.work / torch.seconds[i]!;
      return {
        what: product.what,
        ours: flopRate(rates.get(product)!),
        against: `torch float32: ${flopRate(theirs)}`,
        ratio: rates.get(product)! / theirs,
        goal: 0.75,
        device: torch.device,
      };
    }),
  ];
}

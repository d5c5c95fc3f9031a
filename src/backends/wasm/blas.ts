/**
 * A BLAS of the system, called on the WASM memory: several times as fast as kernels of 128-bit
 * vectors, where there is one. Each thread opens the library itself and calls it for its own tiles,
 * with one thread of the library's, so that results do not depend on the number of threads.
 */
import { DeviceError } from "../../errors.ts";

/** Which BLAS to take: the first one found, none, or the library at a path. */
export type BlasChoice = "auto" | "none" | (string & Record<never, never>);

/** A library that was found, checked, and is open on this thread. */
export interface Blas extends Disposable {
  /** What the system's loader knows it as. */
  readonly library: string;
  /** Its own name and version: `OpenBLAS 0.3.21`. */
  readonly name: string;
  /** The processor whose kernels it chose, if it tells. */
  readonly core: string | undefined;
  /** `cblas_sgemm` on addresses of this process. */
  readonly sgemm: Sgemm;
}

/** `cblas_sgemm` with row-major matrices: c = alpha·op(a)·op(b) + beta·c; see the BLAS. */
export type Sgemm = (
  order: number,
  transA: number,
  transB: number,
  m: number,
  n: number,
  k: number,
  alpha: number,
  a: number,
  lda: number,
  b: number,
  ldb: number,
  beta: number,
  c: number,
  ldc: number,
) => void;

/** What cblas.h calls these. */
const ROW_MAJOR = 101, NO_TRANS = 111, TRANS = 112;

const pointer = { parameters: [], result: "pointer", optional: true } as const;
const setThreads = { parameters: ["i32"], result: "void", optional: true } as const;

/** What is called of a library, as `Deno.dlopen` takes it; workers are given it too. */
export const SYMBOLS = {
  cblas_sgemm: {
    parameters: [
      ...["i32", "i32", "i32", "i32", "i32", "i32", "f32"] as const,
      ...["usize", "i32", "usize", "i32", "f32", "usize", "i32"] as const,
    ],
    result: "void",
  },
  openblas_set_num_threads: setThreads,
  openblas_get_config: pointer,
  openblas_get_corename: pointer,
  MKL_Set_Num_Threads: setThreads,
  bli_thread_set_num_threads: { ...setThreads, parameters: ["i64"] },
  bli_info_get_version_str: pointer,
} as const;

/** Sets the number of a library's own threads, whichever it is. */
export const THREAD_SETTERS = [
  "openblas_set_num_threads",
  "MKL_Set_Num_Threads",
  "bli_thread_set_num_threads",
] as const;

/** Where to look, in order. */
const LIBRARIES: Readonly<Partial<Record<typeof Deno.build.os, readonly string[]>>> = {
  darwin: ["/System/Library/Frameworks/Accelerate.framework/Accelerate"],
  linux: ["libopenblas.so.0", "libmkl_rt.so.2", "libblis.so.4"],
  windows: ["openblas.dll", "libopenblas.dll", "mkl_rt.2.dll"],
};

/**
 * What OpenBLAS calls kernels that use no vectors wider than 128 bits: those of a processor that it
 * does not know, or that has no wider ones. They are slower than Sluice's own.
 */
const NARROW_CORES =
  /^(generic|prescott|core2|penryn|dunnington|nehalem|katmai|coppermine|northwood|banias|atom|athlon|opteron|opteron_sse3|barcelona|bobcat|nano|unknown)$/i;

/** A library that is not taken. */
export interface Passed {
  readonly library: string;
  readonly reason: string;
  /** Whether it is there and should have been of use. */
  readonly faulty: boolean;
}

/** What was found where a BLAS was looked for. */
export interface BlasFound {
  readonly blas: Blas | undefined;
  readonly passed: readonly Passed[];
}

/**
 * Look for a BLAS and open it. Without permission for FFI there is none, and nobody is asked for
 * it.
 *
 * @param choice `auto` takes the first library that answers rightly and has kernels for this
 * processor; a path, or a name that the system's loader knows, takes that library.
 * @throws {DeviceError} of kind `absent`: the library that was asked for cannot be opened, or
 * answers wrongly.
 */
export function openBlas(choice: BlasChoice): BlasFound {
  const passed: Passed[] = [];
  if (choice === "none") return { blas: undefined, passed };
  const auto = choice === "auto";
  for (const library of auto ? LIBRARIES[Deno.build.os] ?? [] : [choice]) {
    const blas = openLibrary(library);
    if ("reason" in blas) passed.push(blas);
    else if (auto && isNarrow(blas)) {
      blas[Symbol.dispose]();
      const reason = `${describeBlas(blas)} uses kernels that are slower than Sluice's own`;
      passed.push({ library, reason, faulty: true });
    } else return { blas, passed };
  }
  if (auto) return { blas: undefined, passed };
  throw new DeviceError(`Cannot use ${choice} as a BLAS: ${passed[0]!.reason}.`, {
    kind: "absent",
    backend: "wasm",
  });
}

/** A BLAS in words: `OpenBLAS 0.3.21 (SkylakeX)`. */
export function describeBlas({ name, core }: Pick<Blas, "name" | "core">): string {
  return core ? `${name} (${core})` : name;
}

/**
 * Whether libraries may be opened, without asking. Addresses are handed over, for which Deno wants
 * the permission for all of them.
 */
function mayCall(): boolean {
  return Deno.permissions.querySync({ name: "ffi" }).state === "granted";
}

/** Open one library and check its answers. */
function openLibrary(library: string): Blas | Passed {
  if (!mayCall()) {
    return { library, reason: "--allow-ffi is not given, for all libraries", faulty: false };
  }
  const opened = load(library);
  if ("reason" in opened) return opened;
  const blas = isNarrow(opened) ? reopened(opened) : opened;
  const wrong = wrongAnswer(blas.sgemm);
  if (!wrong) return blas;
  blas[Symbol.dispose]();
  const reason = `${describeBlas(blas)} answers wrongly: ${wrong}`;
  return { library, reason, faulty: true };
}

const isNarrow = ({ core }: Blas) => core !== undefined && NARROW_CORES.test(core);

/** Open a library, unless it is not there or lacks what every BLAS has. */
function load(library: string): Blas | Passed {
  let opened;
  try {
    opened = Deno.dlopen(library, SYMBOLS);
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    const reason = error.message.replace(/^(Could not open library: )+/, "it cannot be opened: ");
    return { library, reason, faulty: false };
  }
  const { symbols } = opened;
  for (const name of THREAD_SETTERS) (symbols[name] as ((n: number) => void) | null)?.(1);
  const text = (
    name: "openblas_get_config" | "openblas_get_corename" | "bli_info_get_version_str",
  ) => {
    const address = symbols[name]?.();
    return address ? new Deno.UnsafePointerView(address).getCString() : undefined;
  };
  const blis = text("bli_info_get_version_str");
  const name = text("openblas_get_config")?.match(/^OpenBLAS \S+/)?.[0] ??
    (blis ? `BLIS ${blis}` : symbols.MKL_Set_Num_Threads ? "MKL" : nameOf(library));
  return {
    library,
    name,
    core: text("openblas_get_corename"),
    // Parameters of 64 bits take numbers too, though the types offer bigints alone.
    sgemm: symbols.cblas_sgemm as unknown as Sgemm,
    [Symbol.dispose]: () => opened.close(),
  };
}

function nameOf(library: string): string {
  return library.split(/[\\/]/).at(-1)!;
}

/**
 * Open OpenBLAS again with the kernels that the processor's features allow: an OpenBLAS older than a
 * processor takes it for one of 2004. Where the system does not tell the features, or the user set
 * `OPENBLAS_CORETYPE`, it stays as it is.
 */
function reopened(blas: Blas): Blas {
  const core = widestCore();
  if (!core) return blas;
  using libc = closing(Deno.dlopen("libc.so.6", {
    setenv: { parameters: ["buffer", "buffer", "i32"], result: "i32" },
  }));
  const keep = 0;
  libc.symbols.setenv(cString("OPENBLAS_CORETYPE"), cString(core), keep);
  blas[Symbol.dispose]();
  const again = load(blas.library);
  if (!("reason" in again)) return again;
  throw new DeviceError(`Cannot open ${blas.library} a second time: ${again.reason}`, {
    kind: "absent",
    backend: "wasm",
  });
}

function closing<L extends { close(): void }>(library: L): L & Disposable {
  return Object.assign(library, { [Symbol.dispose]: () => library.close() });
}

function cString(text: string): Uint8Array<ArrayBuffer> {
  return new TextEncoder().encode(`${text}\0`);
}

/**
 * OpenBLAS's name for a processor with the features of this one, of Linux on x86, as glibc tells
 * them (2.33 and later, sys/platform/x86.h); undefined elsewhere.
 */
function widestCore(): string | undefined {
  if (Deno.build.os !== "linux" || Deno.build.arch !== "x86_64") return undefined;
  let glibc;
  try {
    glibc = Deno.dlopen("libc.so.6", {
      __x86_get_cpuid_feature_leaf: { parameters: ["u32"], result: "pointer" },
    });
  } catch (error) {
    // Another C library, or an older one.
    if (error instanceof Error) return undefined;
    throw error;
  }
  using opened = closing(glibc);
  /** A bit of what the system lets programs use; registers are eax, ebx, ecx, edx. */
  const uses = (leaf: number, register: number, ...bits: number[]) => {
    const feature = opened.symbols.__x86_get_cpuid_feature_leaf(leaf);
    if (!feature) return false;
    const active = new Deno.UnsafePointerView(feature).getUint32(4 * (4 + register));
    return bits.every((bit) => (active >>> bit & 1) === 1);
  };
  const [LEAF_1, LEAF_7, EBX, ECX] = [0, 1, 1, 2] as const;
  const [FMA, AVX2, AVX512F, AVX512DQ, AVX512BW, AVX512VL] = [12, 5, 16, 17, 30, 31] as const;
  if (!uses(LEAF_1, ECX, FMA) || !uses(LEAF_7, EBX, AVX2)) return undefined;
  return uses(LEAF_7, EBX, AVX512F, AVX512DQ, AVX512BW, AVX512VL) ? "SkylakeX" : "Haswell";
}

/** A product with odd sizes, an offset and both orders, against its definition in float64. */
function wrongAnswer(sgemm: Sgemm): string | undefined {
  const [m, n, k] = [67, 53, 131];
  const value = (i: number) => Math.fround(Math.sin(i * 12.9898) * (i % 7 === 0 ? 8 : 1));
  const a = Float32Array.from({ length: m * k }, (_, i) => value(i));
  const b = Float32Array.from({ length: n * k }, (_, i) => value(i + 7919));
  const [alpha, beta] = [-0.75, 1];
  for (const [transA, transB] of [[NO_TRANS, TRANS], [TRANS, NO_TRANS]] as const) {
    const c = Float32Array.from({ length: m * n }, (_, i) => value(i + 104729));
    const before = c.slice();
    const [lda, ldb] = [transA === TRANS ? m : k, transB === TRANS ? k : n];
    sgemm(
      ...[ROW_MAJOR, transA, transB, m, n, k, alpha] as const,
      ...[addressOf(a), lda, addressOf(b), ldb, beta, addressOf(c), n] as const,
    );
    for (let i = 0; i < m; i++) {
      for (let j = 0; j < n; j++) {
        let [sum, size] = [0, 0];
        for (let l = 0; l < k; l++) {
          const product = (transA === TRANS ? a[l * m + i]! : a[i * k + l]!) *
            (transB === TRANS ? b[j * k + l]! : b[l * n + j]!);
          sum += product;
          size += Math.abs(product);
        }
        const found = c[i * n + j]!;
        const expected = alpha * sum + before[i * n + j]!;
        // The error of k products and k + 1 sums in float32, in any order.
        const bound = (k + 2) * 2 ** -24 * (size + Math.abs(before[i * n + j]!));
        if (!(Math.abs(found - expected) <= bound)) {
          return `a sum of ${k} products is ${found}, not ${expected}`;
        }
      }
    }
  }
  return undefined;
}

/** Where a buffer lies; it must be held on to. */
export function addressOf(buffer: ArrayBufferView<ArrayBufferLike>): number {
  return Number(Deno.UnsafePointer.value(Deno.UnsafePointer.of(buffer as Uint8Array<ArrayBuffer>)));
}

/**
 * Which GPUs there are. WebGPU lists none and takes no name; it answers three kinds of request, and
 * this file asks all three.
 */

/**
 * What may be asked of the system. `fallback` is an adapter that runs on the CPU: right for tests,
 * slow for work.
 */
export const ADAPTER_REQUESTS = ["high-performance", "low-power", "fallback"] as const;
export type AdapterRequest = typeof ADAPTER_REQUESTS[number];

/** What is known about an adapter before a device is opened. */
export interface AdapterDescription {
  /** The driver's own words: `NVIDIA H200`, `llvmpipe (LLVM 15.0.6, 256 bits)`. */
  readonly name: string;
  readonly type: "hardware" | "software";
  /** The requests that return this adapter. */
  readonly requests: readonly AdapterRequest[];
  /** PCI identifiers, as WebGPU gives them. */
  readonly vendor: string;
  readonly device: string;
  /** Bytes, counts and alignments by their WebGPU names. */
  readonly limits: Readonly<Record<string, number>>;
  readonly features: readonly string[];
}

/** The adapter the system gives for a request, if any. */
export function requestAdapter(request: AdapterRequest): Promise<GPUAdapter | null> {
  return navigator.gpu.requestAdapter(
    request === "fallback" ? { forceFallbackAdapter: true } : { powerPreference: request },
  );
}

/** Whether an adapter computes on the CPU. */
export function isSoftware({ info }: GPUAdapter): boolean {
  return info.isFallbackAdapter;
}

/** What a person calls an adapter. */
export function adapterName({ info }: GPUAdapter): string {
  return info.description || `${info.vendor} ${info.device}`;
}

/** Every adapter that some request returns, each once; `[]` when there is none. */
export async function describeAdapters(): Promise<AdapterDescription[]> {
  const found = new Map<string, AdapterDescription>();
  for (const request of ADAPTER_REQUESTS) {
    const adapter = await requestAdapter(request);
    if (!adapter) continue;
    const { vendor, device } = adapter.info;
    const name = adapterName(adapter);
    const key = `${vendor} ${device} ${name}`;
    const earlier = found.get(key);
    found.set(key, {
      name,
      type: isSoftware(adapter) ? "software" : "hardware",
      requests: [...(earlier?.requests ?? []), request],
      vendor,
      device,
      limits: numbersOf(adapter.limits),
      features: [...adapter.features].sort(),
    });
  }
  return [...found.values()];
}

/** WebGPU keeps limits as getters of a prototype, which neither spreads nor turns into JSON. */
function numbersOf(limits: GPUSupportedLimits): Record<string, number> {
  const numbers: Record<string, number> = {};
  for (const name in limits) {
    const value: unknown = limits[name as keyof GPUSupportedLimits];
    if (typeof value === "number") numbers[name] = value;
  }
  return numbers;
}

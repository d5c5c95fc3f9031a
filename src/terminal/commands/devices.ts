/** `sluice devices`: what the work could be done on. */
import { describeBlas, openBlas } from "../../backends/wasm/blas.ts";
import { describeCpu, wasmLimits } from "../../backends/wasm/limits.ts";
import { describeAdapters } from "../../backends/webgpu/mod.ts";
import type { Command } from "../command.ts";
import { jsonText } from "../json.ts";
import { productSpeed } from "../product_speed.ts";
import { pairs } from "../table.ts";
import { visible } from "../text.ts";
import { JSON_FLAG } from "./messages.ts";
import { size } from "../../size.ts";

/** Limits that tell how large a model's pieces may be. */
const SHOWN_LIMITS = ["maxBufferSize", "maxStorageBufferBindingSize"] as const;

/** `sluice devices` */
export const devicesCommand: Command = {
  arguments: [],
  flags: [JSON_FLAG],
  examples: [
    ["devices", "what --device may be"],
    ["devices --json", "every limit and feature for a program"],
  ],
  async run(parsed, host) {
    const adapters = await describeAdapters();
    const cpu = wasmLimits();
    const blas = await findBlas();
    const ownSpeed = await productSpeed("none");
    if (parsed.get("json")) {
      const wasm = { name: describeCpu(cpu), ...cpu, flopsPerSecond: ownSpeed, blas };
      host.out.write(jsonText({ type: "result", webgpu: adapters, wasm }));
      return;
    }
    const blocks = adapters.map(({ name, type, requests, limits, features }) =>
      pairs([
        ["webgpu", visible(name)],
        [
          "kind",
          type === "hardware"
            ? "a GPU"
            : "software: the CPU plays a GPU; --device auto does not take it",
        ],
        ["found as", requests.join(", ")],
        ...SHOWN_LIMITS.map((limit) => [limit, size(limits[limit] ?? 0)] as const),
        [
          "workgroup",
          `${limits.maxComputeInvocationsPerWorkgroup} invocations, ${
            size(limits.maxComputeWorkgroupStorageSize ?? 0)
          } of shared memory`,
        ],
        ["features", features.join(", ")],
      ])
    );
    if (adapters.length === 0) blocks.push("webgpu  no adapter found\n");
    blocks.push(pairs([
      ["wasm", describeCpu(cpu)],
      ["products", `${gigaflops(ownSpeed)} on a thread, by Sluice's own kernels`],
      ...blas.map(({ library, name, flopsPerSecond, reason }) =>
        [
          "blas",
          name === undefined
            ? `${visible(library)}: ${visible(reason!)}`
            : `${visible(name)}, ${visible(library)}: ${gigaflops(flopsPerSecond!)} on a thread`,
        ] as const
      ),
      ["memory", `${size(cpu.memoryBytes)} for all tensors, ${size(cpu.maxTensorBytes)} for one`],
    ]));
    host.out.write(blocks.join("\n"));
  },
};

/** A library that was looked for: what it is and how fast, or why it is not taken. */
interface ListedBlas {
  readonly library: string;
  readonly name?: string;
  readonly flopsPerSecond?: number;
  readonly reason?: string;
}

/** Every BLAS that was looked for up to the one that `--blas auto` takes. */
async function findBlas(): Promise<ListedBlas[]> {
  const { blas, passed } = openBlas("auto");
  const listed: ListedBlas[] = passed.map(({ library, reason }) => ({ library, reason }));
  if (!blas) return listed;
  const { library } = blas;
  const name = describeBlas(blas);
  blas[Symbol.dispose]();
  return [...listed, { library, name, flopsPerSecond: await productSpeed(library) }];
}

function gigaflops(perSecond: number): string {
  return `${Math.round(perSecond / 1e9)} GFLOP/s`;
}

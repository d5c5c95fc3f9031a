/** `sluice devices`: what the work could be done on. */
import { describeCpu, wasmLimits } from "../../backends/wasm/mod.ts";
import { describeAdapters } from "../../backends/webgpu/mod.ts";
import type { Command } from "../command.ts";
import { jsonText } from "../json.ts";
import { pairs } from "../table.ts";
import { visible } from "../text.ts";
import { JSON_FLAG } from "./messages.ts";
import { size } from "../../size.ts";

/** Limits that tell how large a model's pieces may be. */
const SHOWN_LIMITS = ["maxBufferSize", "maxStorageBufferBindingSize"] as const;

/** `sluice devices` */
export const devicesCommand: Command = {
  name: "devices",
  summary: "list GPUs and the CPU, their limits and features",
  arguments: [],
  flags: [JSON_FLAG],
  examples: [
    ["devices", "what --device may be"],
    ["devices --json", "every limit and feature for a program"],
  ],
  async run(parsed, host) {
    const adapters = await describeAdapters();
    const cpu = wasmLimits();
    if (parsed.get("json")) {
      const wasm = { name: describeCpu(cpu), ...cpu };
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
      ["memory", `${size(cpu.memoryBytes)} for all tensors, ${size(cpu.maxTensorBytes)} for one`],
    ]));
    host.out.write(blocks.join("\n"));
  },
};

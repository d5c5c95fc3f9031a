/** A tiny run on a GPU, calibrated and measured, of which cases change the GPU. */
import { folder, tinyWindows } from "../run_given.ts";
import { openTestGpu } from "../adapter.ts";
import { livelyNorms, makeCheckpoint, TINY_CONFIG, tinyTensors } from "../tiny.ts";

/** The run, where it may write, and a GPU that is sound; `undo` ends all that. */
export async function gpuWork(undo: AsyncDisposableStack) {
  const at = undo.use(await folder());
  const gpu = undo.use(await openTestGpu());
  const model = await makeCheckpoint(tinyTensors(), {
    config: TINY_CONFIG,
    change: livelyNorms("bf16"),
  });
  undo.defer(() => Deno.remove(model, { recursive: true }));
  const calibrated = {
    model,
    options: { scheme: "W4A16", "group-size": 32, method: "gptq" },
    evaluation: { windows: tinyWindows(3, 12), stateBudget: 1e7 },
    calibration: { windows: tinyWindows(5, 40), stateBudget: 1e7 },
  };
  return { gpu, calibrated, out: `${await Deno.realPath(at.path)}/whole` };
}

/**
 * Values counted by their leading bits while windows pass, for what asks how they are distributed
 * before their range is known.
 */
import type { Scope, Tensor } from "../backend.ts";
import type { Carried } from "../carry.ts";
import { floatBins, SIGN_BINS } from "../ops/float_bins.ts";
import { elementCount } from "../tensor.ts";

/** Bytes of device memory. */
export const FLOAT_COUNTS_BYTES = 2 * SIGN_BINS * 4;

/** Counts on a device are u32. */
const MOST_COUNTED = 2 ** 32 - 1;

/** Begin to count; what is on the device belongs to `scope`. */
export function countFloats(scope: Scope): Carried & {
  /** Any shape, f32. */
  add(x: Tensor): Promise<void>;
  /** Counts by the bins of `float_bins`: values ≥ 0, then those < 0. */
  finish(): Promise<Float64Array<ArrayBuffer>>;
} {
  const { backend } = scope;
  const counts = scope.alloc("u32", [2 * SIGN_BINS]);
  const zeros = new Uint8Array(FLOAT_COUNTS_BYTES);
  backend.write(counts, zeros);
  const total = new Float64Array(2 * SIGN_BINS);
  let waiting = 0;
  const take = async () => {
    const [bytes] = await backend.read(counts);
    new Uint32Array(bytes!.buffer).forEach((count, i) => total[i]! += count);
    backend.write(counts, zeros);
    waiting = 0;
  };
  return {
    async add(x) {
      const values = elementCount(x.shape);
      if (waiting + values > MOST_COUNTED) await take();
      waiting += values;
      backend.run(floatBins, { x, counts });
    },
    async save(to) {
      await take();
      await to.write(new Uint8Array(total.slice().buffer));
    },
    async restore(from) {
      const more = new Float64Array((await from.read(total.byteLength)).slice().buffer);
      more.forEach((count, i) => total[i]! += count);
    },
    async finish() {
      await take();
      return total;
    },
  };
}

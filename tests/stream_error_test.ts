/** Errors of the residual stream against their definition. */
import assert from "node:assert/strict";
import { StreamErrorSums } from "../src/forward/stream_error.ts";
import { onEveryBackend } from "./present.ts";

const [SEQ_LEN, CHANNELS] = [130, 5];
/** Windows of each stack. */
const STACKS = [2, 1];
const BLOCKS = 2;

/** The same numbers each time, from −1 to 1. */
const number = (...place: number[]) => Math.sin(place.reduce((sum, n) => 31 * sum + n, 7));

onEveryBackend(
  "errors of the residual stream are ‖x̃ − x‖ / ‖x‖, by block and by token",
  async (backend) => {
    using scope = backend.scope();
    const sums = new StreamErrorSums(scope, 3 * SEQ_LEN);
    // By block and token of a window: Σ(x̃ − x)² and Σx².
    const apart = Array.from({ length: BLOCKS }, () => new Float64Array(SEQ_LEN));
    const whole = Array.from({ length: BLOCKS }, () => new Float64Array(SEQ_LEN));
    for (let block = 0; block < BLOCKS; block++) {
      for (const [stack, windows] of STACKS.entries()) {
        const tokens = windows * SEQ_LEN;
        const states = [0, 1].map((stream) => {
          const values = Float32Array.from(
            { length: tokens * CHANNELS },
            (_, i) => number(block, stack, i) + stream * 0.1 * number(stack, block, i, 3),
          );
          const tensor = scope.alloc("f32", [tokens, CHANNELS]);
          backend.write(tensor, new Uint8Array(values.buffer));
          return { tensor, values };
        });
        const [original, quantized] = states as [typeof states[0], typeof states[0]];
        sums.add(block, { original: original.tensor, quantized: quantized.tensor });
        original.values.forEach((x, i) => {
          const token = Math.floor(i / CHANNELS) % SEQ_LEN;
          apart[block]![token]! += (quantized.values[i]! - x) ** 2;
          whole[block]![token]! += x ** 2;
        });
      }
    }
    const found = await sums.finish(backend, SEQ_LEN);
    const total = (values: Float64Array) => values.reduce((sum, value) => sum + value, 0);
    const near = (value: number | undefined, want: number) =>
      assert.ok(Math.abs(value! / want - 1) < 1e-5, `${value}, expected ${want}`);
    assert.equal(found.blocks.length, BLOCKS);
    found.blocks.forEach((error, block) =>
      near(error, Math.sqrt(total(apart[block]!) / total(whole[block]!)))
    );
    // At most 64 places: 44 of three tokens, the last of one.
    assert.deepEqual([found.tokensPerPosition, found.positions.length], [3, 44]);
    found.positions.forEach((error, place) => {
      const of = (values: Float64Array) => total(values.subarray(3 * place, 3 * place + 3));
      near(error, Math.sqrt(of(apart[BLOCKS - 1]!) / of(whole[BLOCKS - 1]!)));
    });
  },
);

onEveryBackend(
  "two streams that are the same have no error, where they are zero either",
  async (backend) => {
    using scope = backend.scope();
    const sums = new StreamErrorSums(scope, 3 * SEQ_LEN);
    const states = scope.alloc("f32", [4, 3]);
    backend.write(states, new Uint8Array(new Float32Array(12).buffer));
    sums.add(0, { original: states, quantized: states });
    assert.deepEqual(await sums.finish(backend, 4), {
      blocks: [0],
      positions: [0, 0, 0, 0],
      tokensPerPosition: 1,
    });
  },
);

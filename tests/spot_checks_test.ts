/** A GPU is held against the definitions while it works: what is right passes, what is wrong not. */
import assert from "node:assert/strict";
import type { Backend, Tensor } from "../src/backend.ts";
import { referenceBackend } from "../src/backends/reference.ts";
import { type CheckedBackend, withSpotChecks } from "../src/backends/spot_checks.ts";
import { DeviceError } from "../src/errors.ts";
import type { Op } from "../src/op.ts";
import { OPS } from "../src/ops/mod.ts";
import { add } from "../src/ops/add.ts";
import { ABSENT_GPU, openTestGpu } from "./adapter.ts";
import { CASES } from "./conformance/backend.ts";
import type { Case } from "./conformance/judge.ts";
import { afterEach, flip } from "./flipped.ts";
import { withOwn } from "./run_given.ts";

const CHECKED = OPS.filter(({ sampling }) => sampling !== undefined);

/** However long it takes. */
const ALL = { share: Infinity };

/** Calls of a case: of so many, most are checked. */
const CALLS = 4;

/** Run a case some times, and read what came of it. */
async function runCase(
  backend: Backend,
  { op, tensors, scalars = {} }: Case,
  calls = CALLS,
): Promise<void> {
  using scope = backend.scope();
  for (let call = 0; call < calls; call++) {
    const args: Record<string, Tensor> = {};
    for (const [name, { dtype, shape, bytes }] of Object.entries(tensors)) {
      args[name] = scope.alloc(dtype, shape);
      backend.write(args[name], bytes);
    }
    backend.run(op, args, scalars);
  }
  await backend.finish();
}

/** What is not told of a part: a sum over all columns. */
const UNJUDGED = ["gptq_block loss"];

const casesOf = (op: Op) => CASES.filter((row) => row.op === op && !row.ieeeOnly);

for (
  const [name, open] of [
    ["the definitions", () => Promise.resolve(referenceBackend())],
    ["a GPU", openTestGpu],
  ] as const
) {
  Deno.test({
    name: `${name}: no case of the conformance suite is taken for wrong`,
    ignore: name === "a GPU" && ABSENT_GPU !== undefined,
    async fn(t) {
      await using device = await open();
      for (const op of CHECKED) {
        await t.step(op.name, async () => {
          const backend = withSpotChecks(device, ALL);
          for (const row of casesOf(op)) await runCase(backend, row);
          assert.ok(backend.checks > 0);
        });
      }
    },
  });

  Deno.test({
    name: `${name}: flipped bits are found in each op's outputs`,
    ignore: name === "a GPU" && ABSENT_GPU !== undefined,
    async fn(t) {
      await using device = await open();
      for (const op of CHECKED) {
        await t.step(op.name, async () => {
          for (const output of Object.keys(op.outputs)) {
            if (!UNJUDGED.includes(`${op.name} ${output}`)) await findFlipped(device, op, output);
          }
        });
      }
    },
  });
}

/** Every case of an op that is checked at all finds that all of an output is wrong. */
async function findFlipped(device: Backend, op: Op, output: string): Promise<void> {
  let found = 0;
  for (const row of casesOf(op)) {
    const sound = withSpotChecks(device, ALL);
    await runCase(sound, row, 1);
    if (sound.checks === 0) continue;
    const wrong = withSpotChecks(
      afterEach(device, (of, tensors) => {
        if (of === op) flip(device, tensors[output]!);
      }),
      ALL,
    );
    try {
      await runCase(wrong, row, 1);
    } catch (error) {
      assert.ok(error instanceof DeviceError, String(error));
      assert.equal(error.kind, "wrong");
      assert.match(
        error.message,
        new RegExp(
          `^The GPU ".*" computes wrongly: ${op.name} gave ${
            op.sampling?.follow ? "\\w+" : output
          }\\[\\d+(, \\d+)?\\] = \\S+, ` +
            "and its definition \\S+( ± \\S+)?\\. Its results cannot be trusted",
        ),
      );
      found++;
    }
  }
  assert.ok(found > 0, `${output} of ${op.name}`);
}

/** x += y of some numbers. */
function queueAdd(backend: Backend, numbers: readonly number[]): Tensor {
  const [x, y] = [backend.alloc("f32", [numbers.length]), backend.alloc("f32", [numbers.length])];
  for (const tensor of [x, y]) {
    backend.write(tensor, new Uint8Array(Float32Array.from(numbers).buffer));
  }
  backend.run(add, { x, y }, { times: 1, other: 1 });
  return x;
}

/** A device whose n-th sum is wrong in one word. */
function wrongSum(device: Backend, n: number, first = 0): CheckedBackend {
  let calls = 0;
  return withSpotChecks(
    afterEach(device, (op, { x }) => {
      if (op === add && ++calls === n) flip(device, x!, { first, count: 1 });
    }),
    ALL,
  );
}

Deno.test("what was read with or after a wrong result is not given out, nor anything later", async () => {
  await using backend = wrongSum(referenceBackend(), 2, 1);
  const right = queueAdd(backend, [1, 2, 3]);
  assert.deepEqual(
    (await backend.read(right)).map((bytes) => [...new Float32Array(bytes.buffer)]),
    [[2, 4, 6]],
  );
  const wrong = queueAdd(backend, [1, 2, 3]);
  const [first, second] = [backend.read(wrong), backend.read(right)];
  for (const reading of [first, second, backend.finish()]) {
    await assert.rejects(reading, {
      name: "DeviceError",
      kind: "wrong",
      message: /add gave x\[1\] = \S+, and its definition 4\. /,
    });
  }
  await assert.rejects(backend.fence?.() ?? backend.finish(), { kind: "wrong" });
  assert.equal(backend.checks, 2);
});

Deno.test("of numbers that are not finite or huge nothing is said", async () => {
  const backend = wrongSum(referenceBackend(), 1);
  for (const number of [NaN, Infinity, -Infinity, 3e38]) {
    await backend.read(queueAdd(backend, [number]));
  }
  assert.equal(backend.checks, 0);
});

Deno.test("a device that failed is not taken for one that computes wrongly", async () => {
  const device = referenceBackend();
  const full = new DeviceError("full", { kind: "memory", backend: "reference" });
  let fails = true;
  const fail = () => fails ? Promise.reject(full) : Promise.resolve();
  const failing = withOwn(device, {
    fence: fail,
    read: async (...tensors) => {
      await fail();
      return await device.read(...tensors);
    },
  });
  const backend = wrongSum(failing, 1);
  queueAdd(backend, [1]);
  await assert.rejects(backend.fence!(), full);
  const other = wrongSum(failing, 1);
  await assert.rejects(other.read(queueAdd(other, [1])), full);
  fails = false;
  for (const after of [backend, other]) {
    await after.read(queueAdd(after, [2]));
    assert.equal(after.checks, 1);
  }
});

Deno.test("of calls of a kind the first after a read, the second, the fourth and so on are checked", async () => {
  const checksOf = async (calls: number, backend = withSpotChecks(referenceBackend(), ALL)) => {
    const before = backend.checks;
    for (let call = 0; call < calls; call++) queueAdd(backend, [1, 2]);
    await backend.finish();
    return backend.checks - before;
  };
  assert.deepEqual(await Promise.all([1, 2, 3, 4, 255, 1024].map((n) => checksOf(n))), [
    ...[1, 2, 2, 3, 8, 12],
  ]);
  const backend = withSpotChecks(referenceBackend(), ALL);
  assert.deepEqual([await checksOf(3, backend), await checksOf(1, backend)], [2, 1]);
  // Once judging has taken longer than it may.
  const hurried = withSpotChecks(referenceBackend(), { share: 0 });
  assert.deepEqual([await checksOf(1, hurried), await checksOf(9, hurried)], [1, 0]);
});

Deno.test({
  name: "checks make no wait",
  ignore: ABSENT_GPU !== undefined,
  async fn() {
    await using gpu = await openTestGpu();
    const backend = withSpotChecks(gpu, ALL);
    const tensors = [queueAdd(backend, [1, 2, 3]), queueAdd(backend, [4])];
    await backend.read(...tensors);
    assert.deepEqual([backend.checks, backend.traffic?.waits, backend.traffic?.reads], [2, 1, 1]);
  },
});

/**
 * The safetensors container: what its writer makes is what the reference makes, and its reader
 * takes exactly the format.
 */
import assert from "node:assert/strict";
import fc from "fast-check";
import {
  HEADER_LIMIT,
  headerLength,
  layoutFile,
  parseHeader,
} from "../src/containers/safetensors.ts";
import { impostor } from "../src/containers/impostors.ts";
import { CheckpointError, UnsupportedError } from "../src/errors.ts";
import { BITS, byteLength, type DType, type TensorInfo } from "../src/tensor.ts";

const GOLDEN = new URL("golden/safetensors_writer.safetensors", import.meta.url);
const DTYPES = Object.keys(BITS) as DType[];

/** A list of tensors that a file may hold. */
const tensorLists: fc.Arbitrary<TensorInfo[]> = fc.uniqueArray(
  fc.record({
    name: fc.string({ unit: "binary", minLength: 1, maxLength: 20 }).filter(isAllowedName),
    dtype: fc.constantFrom(...DTYPES),
    shape: fc.array(fc.nat({ max: 9 }), { maxLength: 4 }),
  }, { noNullPrototype: true }).filter((tensor) => Number.isInteger(byteLength(tensor))),
  { selector: ({ name }) => name, maxLength: 20 },
);

function isAllowedName(name: string): boolean {
  // deno-lint-ignore no-control-regex -- control characters are what is looked for
  return !/[\u0000-\u001f\u007f-\u009f]/.test(name) && !/^__(?:proto|metadata)__$/.test(name);
}

Deno.test("layoutFile() makes the bytes that Python's safetensors 0.8 made of the same tensors", async () => {
  const golden = await Deno.readFile(GOLDEN);
  const options = { file: "golden", fileSize: golden.length };
  const { tensors, metadata, headerBytes } = parseHeader(golden, options);
  assert.equal(tensors.length, 54);
  // From another order, so that sorting is ours.
  const reversed = tensors.toReversed().map(({ name, dtype, shape }) => ({ name, dtype, shape }));
  const layout = layoutFile(reversed, metadata);
  assert.equal(layout.size, golden.length);
  assert.deepEqual(layout.head, golden.subarray(0, headerBytes));
  assert.deepEqual(layout.tensors, tensors);
});

Deno.test("parseHeader() reads a golden file's dtypes, shapes and places", async () => {
  const golden = await Deno.readFile(GOLDEN);
  const { tensors, metadata } = parseHeader(golden, { file: "golden", fileSize: golden.length });
  assert.deepEqual(metadata, { format: "pt" });
  const byName = new Map(tensors.map((tensor) => [tensor.name, tensor]));
  const { dtype, shape, begin, end } = byName.get("z.4")!;
  assert.equal(dtype, "f8_e4m3");
  assert.deepEqual(shape, [3, 5]);
  assert.equal(end - begin, 15);
  assert.deepEqual(byName.get("shape.0")!.shape, []);
  assert.equal(byName.get("\u{1f600}")!.dtype, "i16");
  assert.equal(byName.get("packed.f4")!.dtype, "f4");
  // The script fills each tensor with bytes that count up from a seed; the first tensor's seed is
  // 1.
  const first = byName.get("z.1")!; // the third tensor made, seed 15
  assert.deepEqual(
    golden.subarray(first.begin, first.end),
    Uint8Array.from({ length: 15 }, (_, i) => 15 + i),
  );
});

Deno.test("parseHeader() of layoutFile() gives back any list of tensors, aligned and without gaps", () => {
  fc.assert(fc.property(tensorLists, (list) => {
    const { head, tensors, size } = layoutFile(list);
    const parsed = parseHeader(head, { file: "x", fileSize: size });
    assert.deepEqual(parsed.tensors, tensors);
    assert.deepEqual(parsed.metadata, { format: "pt" });
    assert.equal(parsed.headerBytes, head.length);
    assert.equal(head.length % 8, 0);
    assert.equal(head[8], 0x7b);
    assert.deepEqual(
      tensors.map(({ name, dtype, shape }) => ({ name, dtype, shape })).sort(byName),
      list.toSorted(byName),
    );
    for (const { dtype, begin } of tensors) {
      // Within a file of whole-byte elements every tensor lies at a multiple of its element.
      if (list.every((tensor) => BITS[tensor.dtype] >= 8)) {
        assert.equal((begin * 8) % Math.min(BITS[dtype], 64), 0);
      }
    }
  }));
});

function byName(a: TensorInfo, b: TensorInfo): number {
  return a.name < b.name ? -1 : 1;
}

Deno.test("a changed header is refused with CheckpointError, or still describes every byte of the file once", () => {
  let accepted = 0;
  const edits = fc.array(
    fc.record({ at: fc.nat(), byte: fc.nat({ max: 255 }), kind: fc.nat({ max: 2 }) }),
    { minLength: 1, maxLength: 3 },
  );
  fc.assert(
    fc.property(tensorLists, edits, (list, changes) => {
      const { head, size } = layoutFile(list);
      const bytes = [...head, ...new Uint8Array(size - head.length)];
      for (const { at, byte, kind } of changes) {
        const place = at % head.length;
        if (kind === 0) bytes[place] = byte;
        else if (kind === 1) bytes.splice(place, 1);
        else bytes.splice(place, 0, byte);
      }
      const parsed = parseOrRefuse(Uint8Array.from(bytes));
      if (!parsed) return;
      accepted++;
      let end = parsed.headerBytes;
      for (const tensor of parsed.tensors) {
        assert.equal(tensor.begin, end);
        assert.equal(tensor.end - tensor.begin, byteLength(tensor));
        end = tensor.end;
      }
      assert.equal(end, bytes.length);
      assert.equal(new Set(parsed.tensors.map(({ name }) => name)).size, parsed.tensors.length);
      layoutFile(parsed.tensors, parsed.metadata);
    }),
    { numRuns: 3000 },
  );
  assert.ok(accepted > 0, "some changes, of a letter in a name, are harmless");
});

Deno.test("random bytes are refused with CheckpointError", () => {
  fc.assert(fc.property(fc.uint8Array({ maxLength: 600 }), (bytes) => {
    assert.equal(parseOrRefuse(bytes), undefined);
  }));
});

function parseOrRefuse(bytes: Uint8Array) {
  try {
    return parseHeader(bytes, { file: "x", fileSize: bytes.length });
  } catch (error) {
    if (!(error instanceof CheckpointError)) throw error;
    return undefined;
  }
}

Deno.test("headerLength() judges a length before anything is allocated for it", () => {
  const start = new Uint8Array(512).fill(0x20);
  const view = new DataView(start.buffer);
  start[8] = 0x7b;
  const about = { file: "x", fileSize: 1e12 };
  view.setBigUint64(0, BigInt(HEADER_LIMIT), true);
  assert.equal(headerLength(start, about), 8 + HEADER_LIMIT);
  view.setBigUint64(0, BigInt(HEADER_LIMIT) + 1n, true);
  assert.throws(() => headerLength(start, about), CheckpointError);
  assert.equal(headerLength(start, { ...about, maxHeaderBytes: 1e8 }), 8 + HEADER_LIMIT + 1);
  assert.throws(() => headerLength(start, { ...about, maxHeaderBytes: 1e8 + 1 }), RangeError);
  view.setBigUint64(0, 2n ** 64n - 1n, true);
  assert.throws(() => headerLength(start, { ...about, maxHeaderBytes: 1e8 }), CheckpointError);
});

Deno.test("parseHeader() keeps odd metadata keys as plain members", () => {
  const { head, size } = layoutFile([], Object.fromEntries([["__proto__", "a"], ["", "b"]]));
  const { metadata } = parseHeader(head, { file: "x", fileSize: size });
  assert.deepEqual(Object.entries(metadata!), [["__proto__", "a"], ["", "b"]]);
});

Deno.test("parseHeader() reads a header of 100,000 tensors", () => {
  const { head, size } = layoutFile(Array.from({ length: 100_000 }, (_, i) => ({
    name: `model.layers.${i >> 8}.mlp.experts.${i & 255}.up_proj.weight`,
    dtype: "bf16",
    shape: [4, 8],
  })));
  const { tensors } = parseHeader(head, { file: "x", fileSize: size });
  assert.equal(tensors.length, 100_000);
  assert.equal(tensors.at(-1)!.end, size);
});

Deno.test("layoutFile() refuses what parseHeader() would refuse", () => {
  const tensor: TensorInfo = { name: "a", dtype: "f32", shape: [2] };
  const refused: [TensorInfo[], RegExp][] = [
    [[tensor, tensor], /named "a", which is taken/],
    [[{ ...tensor, name: "__metadata__" }], /which is taken/],
    [[{ ...tensor, name: "" }], /which is empty/],
    [[{ ...tensor, name: "a\u0007" }], /"a\\u0007", which holds a control character/],
    [[{ ...tensor, name: "\ud800" }], /half a surrogate/],
    [[{ ...tensor, name: "__proto__" }], /no name for a tensor/],
    [[{ ...tensor, name: "a".repeat(1025) }], /longer than 1024/],
    [[{ ...tensor, dtype: "f4", shape: [3] }], /fill whole bytes/],
    [[{ ...tensor, shape: [-1] }], /fewer than 2\^53/],
    [[{ ...tensor, shape: [0.5] }], /fewer than 2\^53/],
    [[{ ...tensor, shape: [2 ** 30, 2 ** 30] }], /fewer than 2\^53/],
    [[{ ...tensor, shape: Array(17).fill(1) }], /at most 16 dimensions/],
  ];
  for (const [tensors, message] of refused) {
    assert.throws(
      () => layoutFile(tensors),
      (error) => error instanceof RangeError && message.test(error.message),
    );
  }
});

Deno.test("layoutFile() refuses a header that loaders would not read", () => {
  const tensors = Array.from({ length: 30_000 }, (_, i): TensorInfo => ({
    name: `${i}`.padEnd(1000, "x"),
    dtype: "u8",
    shape: [0],
  }));
  assert.throws(() => layoutFile(tensors), UnsupportedError);
});

Deno.test("impostor() knows what files are by their first bytes", () => {
  const bytes = (text: string) => Uint8Array.from(text, (c) => c.charCodeAt(0));
  assert.match(impostor(bytes("version https://git-lfs.github.com/spec/v1\noid"))!, /git lfs pull/);
  assert.match(impostor(bytes("\n <!DOCTYPE HTML><html>"))!, /HTML page/);
  assert.match(impostor(bytes("PK\x03\x04"))!, /zip/);
  assert.match(impostor(bytes("\x80\x02}q"))!, /pickle/);
  assert.match(impostor(bytes("\0".repeat(257) + "ustar"))!, /tar file/);
  assert.match(impostor(new Uint8Array(40))!, /zeros/);
  assert.equal(impostor(bytes("something else")), undefined);
  assert.equal(impostor(new Uint8Array(0)), undefined);
});

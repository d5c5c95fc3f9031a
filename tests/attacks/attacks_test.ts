/**
 * Hostile and broken checkpoints meet the error they should, in a sentence that is safe to print,
 * and nothing hangs or grows.
 */
import assert from "node:assert/strict";
import { CheckpointError, RequestError } from "../../src/errors.ts";
import { headerLength, parseHeader } from "../../src/containers/safetensors.ts";
import { openCheckpoint } from "../../src/sources/checkpoint.ts";
import { type Attack, attacks, writeAttack } from "./collection.ts";

Deno.test("the collection has at least 60 attacks, and no name twice", () => {
  assert.ok(attacks.length >= 60, `there are ${attacks.length}`);
  assert.equal(new Set(attacks.map(({ name }) => name)).size, attacks.length);
});

for (const attack of attacks) {
  // Deno on Windows makes links only with a privilege that tests do not have.
  const ignore = attack.links !== undefined && Deno.build.os === "windows";
  Deno.test({ name: `openCheckpoint() refuses ${attack.name}`, ignore, fn: () => refuse(attack) });
}

async function refuse(attack: Attack): Promise<void> {
  const folder = await Deno.makeTempDir({ prefix: "sluice_attack_" });
  try {
    const path = await writeAttack(attack, folder);
    const error = await openCheckpoint(path).then(
      async (source) => {
        await source[Symbol.asyncDispose]();
        return undefined;
      },
      (fault: unknown) => fault,
    );
    assert.ok(error !== undefined, "it was opened");
    const expected = attack.error === "RequestError" ? RequestError : CheckpointError;
    assert.ok(error instanceof expected, `it threw ${String(error)}`);
    assert.match(error.message, attack.says);
    checkSentence(error.message);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** A message is one printable sentence or a few, of a bearable length. */
function checkSentence(message: string): void {
  assert.match(message, /^Cannot (?:read|open|look at) .*[.]$/s);
  // deno-lint-ignore no-control-regex -- control characters are what is looked for
  assert.doesNotMatch(message, /[\u0000-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/);
  assert.ok(message.length < 700, `it has ${message.length} characters`);
}

Deno.test("parseHeader() refuses every attack of one file as openCheckpoint() does", () => {
  for (const { name, files, open, says } of attacks) {
    const content = files[open];
    if (!content) continue;
    const bytes = content instanceof Uint8Array ? content : content.start;
    const about = {
      file: "x",
      fileSize: content instanceof Uint8Array ? bytes.length : content.size,
    };
    assert.throws(
      () => {
        headerLength(bytes, about);
        parseHeader(bytes, about);
      },
      (error) => error instanceof CheckpointError && says.test(error.message),
      name,
    );
  }
});

Deno.test("parseHeader() refuses more than 500,000 tensors even when long headers are allowed", () => {
  const entry = ':{"dtype":"U8","shape":[0],"data_offsets":[0,0]}';
  const names = Array.from({ length: 500_001 }, (_, i) => `"${i.toString(36)}"${entry}`);
  const json = new TextEncoder().encode(`{${names.join(",")}}`);
  const bytes = new Uint8Array(8 + json.length);
  new DataView(bytes.buffer).setBigUint64(0, BigInt(json.length), true);
  bytes.set(json, 8);
  const about = { file: "x", fileSize: bytes.length, maxHeaderBytes: 100_000_000 };
  assert.throws(
    () => parseHeader(bytes, about),
    (error) => error instanceof CheckpointError && /more than 500000 tensors/.test(error.message),
  );
});

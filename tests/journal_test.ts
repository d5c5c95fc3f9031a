/** The journal: what is read is what was written, to the bit, and only what was written whole. */
import assert from "node:assert/strict";
import { join } from "node:path";
import fc from "fast-check";
import { RequestError } from "../src/errors.ts";
import { disk } from "../src/io/disk.ts";
import { openJournal, readJournal } from "../src/io/journal.ts";
import { folder } from "./run_given.ts";

Deno.test("records are read as they were written, with the numbers that JSON has no word for", async () => {
  await using at = await folder();
  const written = [
    { numbers: [0, -0, NaN, Infinity, -Infinity, 5e-324, 0.1 + 0.2] },
    { text: 'a "line"\nof\u2028two', number: 1, none: null, deep: { number: -0 } },
    [],
  ];
  const path = join(at.path, "journal.jsonl");
  {
    await using journal = await openJournal(disk, path);
    for (const record of written) await journal.append(record);
    assert.deepEqual(journal.records, written);
  }
  const read = await readJournal(disk, path);
  assert.deepEqual(read.records, written);
  assert.equal(read.bytes, (await Deno.stat(path)).size);
  // A line is JSON for whoever else reads it.
  const [, line] = (await Deno.readTextFile(path)).split("\n");
  assert.equal(
    (JSON.parse(line!) as { record: { text: string } }).record.text,
    'a "line"\nof\u2028two',
  );
});

Deno.test("cut anywhere, a journal is its whole lines, and goes on after them", async () => {
  await using at = await folder();
  const path = join(at.path, "journal.jsonl");
  {
    await using journal = await openJournal(disk, path);
    for (let i = 0; i < 4; i++) await journal.append({ i });
  }
  const whole = await Deno.readFile(path);
  for (let end = 0; end <= whole.length; end++) {
    await Deno.writeFile(path, whole.subarray(0, end));
    const read = await readJournal(disk, path);
    const lines = whole.subarray(0, end).filter((byte) => byte === 10).length;
    assert.deepEqual(read.records, Array.from({ length: lines }, (_, i) => ({ i })));
    if (end % 50 !== 0) continue;
    {
      await using journal = await openJournal(disk, path, read);
      await journal.append("more");
    }
    assert.deepEqual((await readJournal(disk, path)).records, [...read.records, "more"]);
  }
});

Deno.test("a byte that is another anywhere before the last line is refused by the line's number", async () => {
  await using at = await folder();
  const path = join(at.path, "journal.jsonl");
  {
    await using journal = await openJournal(disk, path);
    for (let i = 0; i < 3; i++) await journal.append({ i });
  }
  const whole = await Deno.readFile(path);
  const ends = [...whole.keys()].filter((at) => whole[at] === 10);
  await fc.assert(fc.asyncProperty(
    fc.nat(ends[1]! - 1),
    fc.integer({ min: 1, max: 255 }),
    async (at, change) => {
      await Deno.writeFile(path, whole.with(at, whole[at]! ^ change));
      const line = at <= ends[0]! ? 1 : 2;
      await assert.rejects(
        readJournal(disk, path),
        (error) =>
          error instanceof RequestError && error.message.includes(`its line ${line} is damaged`),
      );
    },
  ));
});

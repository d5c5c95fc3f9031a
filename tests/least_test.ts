/** What searches compare by: NaN and infinity win nothing. */
import assert from "node:assert/strict";
import fc from "fast-check";
import { Least } from "../src/ops/least.ts";

Deno.test("the first of the least finite losses wins, whatever else was offered in whatever order", () => {
  const losses = fc.array(
    fc.oneof(fc.double({ noNaN: true, min: 0 }), fc.constantFrom(NaN, Infinity, 0, 1)),
  );
  fc.assert(fc.property(losses, (losses) => {
    const least = new Least(-1);
    const taken = losses.map((loss, i) => least.offer(i, loss));
    const finite = losses.filter((loss) => loss < Infinity);
    const want = Math.min(...finite);
    assert.equal(least.loss, want);
    assert.equal(least.value, finite.length > 0 ? losses.findIndex((loss) => loss === want) : -1);
    assert.equal(taken.lastIndexOf(true), least.value);
  }));
});

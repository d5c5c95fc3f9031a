/** Who does what in a repository: shares, halves of what others have before them, and the last units. */
import assert from "node:assert/strict";
import { type Claims, claimsText, decide, parseClaims, takenOver } from "../src/meeting/claims.ts";

const NONE: Claims = { holders: new Map(), watchers: new Map(), slowest: 0 };
const asker = (index: number, count: number, worked = true) => ({
  index,
  count,
  worked,
  name: `${index}/${count} x`,
});

/** What workers decide one after the other, of the same units. */
function decided(open: readonly number[], claims: Claims, ...askers: ReturnType<typeof asker>[]) {
  const decisions = askers.map((asker) => {
    const decision = decide(open, claims, asker);
    if (decision.kind !== "leave") claims = decision.claims;
    return decision.kind === "take"
      ? decision.units
      : decision.kind === "watch"
      ? `watches ${decision.unit}`
      : "leaves";
  });
  return { decisions, claims };
}

const UNITS = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9];

Deno.test("each worker claims its share, and one that has nothing left the last half of the most", () => {
  const { decisions, claims } = decided(UNITS, NONE, asker(0, 2), asker(1, 2));
  assert.deepEqual(decisions, [[0, 2, 4, 6, 8], [1, 3, 5, 7, 9]]);
  const after = decided([1, 3, 5, 7, 9], claims, asker(0, 2));
  assert.deepEqual(after.decisions, [[7, 9]]);
  assert.deepEqual(decide([1, 3, 5, 7, 9], after.claims, asker(1, 2)), {
    kind: "take",
    units: [1, 3, 5],
    claims: after.claims,
  });
});

Deno.test("what belongs to one that has not come is taken by halves to the last of it", () => {
  const open = [1, 3, 5];
  const { decisions } = decided(open, NONE, asker(0, 2));
  assert.deepEqual(decisions, [[3, 5]]);
  assert.deepEqual(decided([1], NONE, asker(0, 2)).decisions, [[1]]);
});

Deno.test("workers without numbers share by halves, and none does what another has begun", () => {
  const all = [0, 1, 2, 3].map((i) => ({ ...asker(0, 1), name: String(i) }));
  const { decisions, claims } = decided(UNITS, NONE, ...all);
  assert.deepEqual(decisions, [UNITS, [5, 6, 7, 8, 9], [3, 4], [8, 9]]);
  assert.equal(UNITS.map((unit) => claims.holders.get(unit)).join(""), "0002211133");
});

Deno.test("the last units are watched by one each; who has done nothing yet stays", () => {
  const claims: Claims = {
    holders: new Map([[4, "a"], [7, "b"]]),
    watchers: new Map(),
    slowest: 0,
  };
  const first = decided([4, 7], claims, asker(0, 4), asker(1, 4), asker(2, 4), asker(3, 4, false));
  assert.deepEqual(first.decisions, ["watches 7", "watches 4", "leaves", "watches 7"]);
  const over = takenOver(7, [4, 7], first.claims, "c");
  assert.deepEqual(over.holders, new Map([[4, "a"], [7, "c"]]));
  assert.deepEqual(over.watchers, new Map([[4, "1/4 x"]]));
  assert.equal(decide([], over, asker(0, 4, false)).kind, "leave");
});

Deno.test("of units that are done nothing is kept", () => {
  const claims: Claims = {
    holders: new Map([[1, "a"], [2, "b"]]),
    watchers: new Map([[1, "c"]]),
    slowest: 5,
  };
  assert.deepEqual(takenOver(2, [2], claims, "d"), {
    holders: new Map([[2, "d"]]),
    watchers: new Map(),
    slowest: 5,
  });
});

Deno.test("claims come back from their text, and others' are refused", () => {
  const claims: Claims = {
    holders: new Map([[12, "a"], [3, "b"]]),
    watchers: new Map([[3, "c"]]),
    slowest: 7,
  };
  assert.deepEqual(parseClaims(claimsText(claims), "hf://me/job"), claims);
  assert.deepEqual(parseClaims(undefined, "hf://me/job"), NONE);
  const others = [
    "",
    "[]",
    '{"claims": 2, "holders": {}, "watchers": {}, "slowest": 0}',
    '{"claims": 1, "holders": {}, "slowest": 0}',
    '{"claims": 1, "holders": {}, "watchers": {}}',
    '{"claims": 1, "holders": {"x": "a"}, "watchers": {}, "slowest": 0}',
    '{"claims": 1, "holders": {"00001": 1}, "watchers": {}, "slowest": 0}',
  ];
  for (const text of others) {
    assert.throws(() => parseClaims(text, "hf://me/job"), {
      name: "RequestError",
      message: /its claims\.json is not what this version of Sluice writes\. Remove it/,
    });
  }
});

/** Cases of the plan of faults that Sluice has no place for, and why: they are named, not run. */
import type { Suite } from "./suite.ts";

function absent(given: Pick<Suite, "id" | "title"> & { readonly absent: string }): Suite {
  return {
    ...given,
    share: 0,
    open: () => Promise.reject(new RangeError(`${given.id} has no cases`)),
  };
}

/** Of Xet's own protocol. */
export const C2: Suite = absent({
  id: "C2",
  title: "flipped bits in blocks of Xet",
  absent: "Xet's own protocol is not used: files come over plain HTTP, whole, and are hashed (C1)",
});

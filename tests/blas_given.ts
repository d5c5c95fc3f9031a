/** Whether this machine has a BLAS, for tests that need one. */
import { openBlas } from "../src/backends/wasm/blas.ts";

/** Why there is no BLAS here, if there is none. */
export const ABSENT_BLAS: string | undefined = (() => {
  const { blas, passed } = openBlas("auto");
  blas?.[Symbol.dispose]();
  return blas ? undefined : passed.map(({ reason }) => reason).join("; ") || "none is known";
})();

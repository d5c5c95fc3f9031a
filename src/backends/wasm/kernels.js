// The compiled kernels. A source-phase import needs no permission to read the file; TypeScript does not know the syntax yet,
// so it stands alone in plain JavaScript.
// @ts-self-types="./kernels.d.ts"
import source kernels from "./kernels.wasm";
export { kernels };

/**
 * kernels.wasm, compiled: an export for every op, named as the op. Imports `env.memory`, which is
 * shared.
 */
export const kernels: WebAssembly.Module;

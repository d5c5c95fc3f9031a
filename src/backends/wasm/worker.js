// One thread of the WASM backend. It waits for a new generation, enters the op unless it is closed
// already, runs the kernel named in the control block, counts itself out. Started from a data: URL
// of this text (no permission needed), so it imports nothing. pool.ts has the other side.
self.onmessage = ({ data: { module, memory, names, thread, words, library } }) => {
  const control = new Int32Array(memory.buffer);
  const { exports } = new WebAssembly.Instance(module, { env: { memory, sgemm: sgemmOf() } });
  self.postMessage("ready");
  // cblas_sgemm of the library that the pool opened, on addresses of this memory.
  function sgemmOf() {
    if (!library) {
      return () => {
        throw new TypeError("There is no BLAS");
      };
    }
    const { symbols: { cblas_sgemm: sgemm } } = Deno.dlopen(library.path, library.symbols);
    const bytes = new Uint8Array(memory.buffer);
    const base = Number(Deno.UnsafePointer.value(Deno.UnsafePointer.of(bytes)));
    const bases = new Float64Array(memory.buffer, 4 * words.bases, 3);
    const at = (i, address) => base + bases[i] + (address >>> 0);
    return (order, transA, transB, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc) =>
      sgemm(
        ...[order, transA, transB, m, n, k, alpha, at(0, a), lda],
        ...[at(1, b), ldb, beta, at(2, c), ldc],
      );
  }
  // Whether this thread takes part: once counted in, the op waits for it, and its arguments stay.
  const enter = () => {
    for (;;) {
      const entered = Atomics.load(control, words.entered);
      if (entered < 0) return false;
      const found = Atomics.compareExchange(control, words.entered, entered, entered + 1);
      if (found === entered) return true;
    }
  };
  let generation = 0;
  for (;;) {
    for (
      let spin = 0;
      spin < 500 && Atomics.load(control, words.generation) === generation;
      spin++
    ) {
      Atomics.pause();
    }
    // One that slept may be woken for a generation it has already done: pool.ts raises the counter
    // first, and tells of it later.
    while (Atomics.load(control, words.generation) === generation) {
      Atomics.wait(control, words.generation, generation);
    }
    generation = Atomics.load(control, words.generation);
    if (Atomics.load(control, words.kernel) < 0) return self.close();
    if (!enter()) continue;
    const kernel = Atomics.load(control, words.kernel);
    try {
      exports[names[kernel]](thread);
    } catch (error) {
      Atomics.store(control, words.failed, 1);
      if (!(error instanceof WebAssembly.RuntimeError)) throw error;
    } finally {
      Atomics.add(control, words.left, 1);
      Atomics.notify(control, words.left);
    }
  }
};

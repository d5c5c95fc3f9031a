/** A block is walked without a trace: nothing stays on the device but what it gives. */
import assert from "node:assert/strict";
import { type Backend, makeScope, type Tensor } from "../../src/backend.ts";
import { referenceBackend } from "../../src/backends/reference.ts";
import { configureModel } from "../../src/families/mod.ts";
import { LoadedBlock } from "../../src/forward/loaded_block.ts";
import { ModelTables } from "../../src/forward/tables.ts";
import { walk, walkBlock } from "../../src/forward/walk.ts";
import { originalWeights } from "../../src/forward/weights.ts";
import { graphsOf } from "../../src/graph/block_graph.ts";
import { openCheckpoint } from "../../src/sources/checkpoint.ts";
import { FAMILIES, MODELS, weightsFolder } from "./given.ts";

/** A device that knows which of its tensors are not freed. */
function counted(): { readonly backend: Backend; readonly live: ReadonlySet<Tensor> } {
  const plain = referenceBackend();
  const live = new Set<Tensor>();
  const backend: Backend = {
    ...plain,
    alloc(dtype, shape) {
      const tensor = plain.alloc(dtype, shape);
      const dispose = tensor[Symbol.dispose].bind(tensor);
      live.add(tensor);
      tensor[Symbol.dispose] = () => {
        assert.ok(live.delete(tensor), "a tensor was freed twice");
        dispose();
      };
      return tensor;
    },
    scope: () => makeScope(backend),
  };
  return { backend, live };
}

for (const name of MODELS) {
  Deno.test(`a block of the ${name} model leaves nothing but its result, and its input as it was`, async () => {
    await using source = await openCheckpoint(weightsFolder(name));
    const config = JSON.parse(await Deno.readTextFile(new URL(`${name}/config.json`, FAMILIES)));
    const model = configureModel(config, (tensor) => source.tensors.has(tensor));
    const { backend, live } = counted();
    using scope = backend.scope();
    using tables = new ModelTables(model, { tokens: 5, scope });
    const x = scope.alloc("f32", [5, model.hiddenSize]);
    backend.write(x, new Uint8Array(new Float32Array(5 * model.hiddenSize).fill(0.5).buffer));
    for (const graph of graphsOf(model)) {
      const tensors = await LoadedBlock.load(graph, originalWeights(source), { scope });
      // Tables are made when they are first asked for, and stay.
      {
        using first = backend.scope();
        walkBlock(graph, x, { scope: first, tensors, tables });
      }
      const before = [...live];
      const inner = backend.scope();
      const y = walkBlock(graph, x, { scope: inner, tensors, tables });
      assert.deepEqual([...live], [...before, y]);
      inner[Symbol.dispose]();
      assert.deepEqual([...live], before);
      // Stage after stage gives what the whole way gives, bit for bit.
      using parts = backend.scope();
      const given = new Map([[graph.block.input, x]]);
      const places = [...graph.stages.map(({ at }) => at), graph.nodes.length];
      let from = 0;
      for (const to of places) {
        const states = walk(graph, { from, to }, {
          given,
          forward: { scope: parts, tensors, tables },
        });
        const kept = graph.resumption(to).states.map((state) =>
          [state, states.get(state)] as const
        );
        given.clear();
        for (const [state, tensor] of kept) given.set(state, tensor);
        from = to;
      }
      using again = backend.scope();
      const whole = walkBlock(graph, x, { scope: again, tensors, tables });
      const [a, b] = await backend.read(given.get(graph.block.output)!, whole);
      assert.deepEqual(a, b);
    }
    const [bytes] = await backend.read(x);
    assert.ok(new Float32Array(bytes!.buffer).every((value) => value === 0.5));
  });
}

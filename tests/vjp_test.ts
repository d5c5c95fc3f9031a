/**
 * The backward pass of each op that a block uses, by its definition, is what differences of the way
 * forward by its definition say, both in float64.
 */
import assert from "node:assert/strict";
import { ACTIVATIONS } from "../src/ops/activation.ts";
import { gemm } from "../src/ops/gemm.ts";
import {
  act,
  actVjp,
  add,
  attention,
  attentionVjpKv,
  attentionVjpQ,
  divergence,
  divergenceVjp,
  gate,
  gateVjp,
  layerNorm,
  layerNormVjp,
  nllVjp,
  rmsNorm,
  rmsNormVjp,
  rope,
  scaleCap,
  scaleCapVjp,
  scaleRows,
} from "../src/ops/mod.ts";
import type { Op, OpArray, Scalars } from "../src/op.ts";
import { elementCount, type Shape } from "../src/tensor.ts";
import { bindDims } from "../src/op.ts";
import { gaussian } from "./conformance/given.ts";

type Numbers = Float64Array<ArrayBuffer>;

/** Numbers with a shape; the values are the tensor's, and may be changed. */
interface Given {
  readonly shape: Shape;
  readonly values: Numbers;
}

let seed = 1;

/** Normally distributed numbers. */
function some(...shape: number[]): Given {
  return { shape, values: Float64Array.from(gaussian(elementCount(shape), seed++)) };
}

const zeros = ({ shape }: { readonly shape: Shape }): Given => ({
  shape,
  values: new Float64Array(elementCount(shape)),
});

const copyOf = ({ shape, values }: Given): Given => ({ shape, values: values.slice() });

/** Run a definition in float64, on the numbers themselves. */
function define(op: Op, args: Readonly<Record<string, Given>>, scalars: Scalars = {}): void {
  const tensors = Object.fromEntries(
    Object.entries(args).map(([name, { shape }]) => {
      const dtype = name === "labels" ? "u32" : "f32";
      return [name, { dtype, shape } as const];
    }),
  );
  const arrays = Object.fromEntries(
    Object.entries(args).map(([name, { values }]) => [name, values as unknown as OpArray]),
  );
  op.reference(arrays, bindDims(op, tensors, scalars), scalars, {});
}

/** Of what is differentiated: by what, and the way there and back. */
interface Differentiable {
  readonly by: Readonly<Record<string, Given>>;
  /** The output, for what `by` holds now. */
  forward(): Given;
  /** From the gradient by the output those by what `by` names. */
  backward(g: Given): Readonly<Record<string, Given>>;
}

/**
 * The step of differences: its square times a third derivative of some tens is 1e-9, and so is what
 * float64 leaves of a sum of some numbers divided by it.
 */
const STEP = 2 ** -17;

function check(name: string, make: () => Differentiable): void {
  Deno.test(`the backward pass of ${name} is what differences say`, () => {
    const { by, forward, backward } = make();
    const g = some(...forward().shape);
    const loss = () => forward().values.reduce((sum, value, i) => sum + value * g.values[i]!, 0);
    const found = backward(copyOf(g));
    for (const [what, { values }] of Object.entries(by)) {
      let seen = 0;
      values.forEach((before, i) => {
        const [more, less] = [1, -1].map((sign) => {
          values[i] = before + sign * STEP;
          return loss();
        }) as [number, number];
        values[i] = before;
        const want = (more - less) / (2 * STEP);
        const got = found[what]!.values[i]!;
        seen += Math.abs(want);
        assert.ok(
          Math.abs(got - want) <= 1e-7 * (1 + Math.abs(want)),
          `by ${what}[${i}]: ${got}, differences say ${want}`,
        );
      });
      assert.ok(seen > 0, `nothing depends on ${what}`);
    }
  });
}

for (const [heads, plus] of [[1, 0], [3, 1]] as const) {
  check(`rms_norm of ${heads} heads`, () => {
    const [x, weight] = [some(4, heads * 7), some(7)];
    const scalars = { eps: 1e-2, plus };
    return {
      by: { x },
      forward() {
        const y = zeros(x);
        define(rmsNorm, { x, weight, y }, scalars);
        return y;
      },
      backward(g) {
        define(rmsNormVjp, { x, weight, g }, scalars);
        return { x: g };
      },
    };
  });
}

check("layer_norm", () => {
  const [x, weight, bias] = [some(4, 9), some(9), some(9)];
  const scalars = { eps: 1e-2 };
  return {
    by: { x },
    forward() {
      const y = zeros(x);
      define(layerNorm, { x, weight, bias, y }, scalars);
      return y;
    },
    backward(g) {
      define(layerNormVjp, { x, weight, g }, scalars);
      return { x: g };
    },
  };
});

for (const adjacent of [0, 1]) {
  check(`rope, by its table with −sin, pairs ${adjacent ? "adjacent" : "in halves"},`, () => {
    const [x, cos, sin] = [some(3, 2 * 7), some(3, 3), some(3, 3)];
    const scalars = { head_dim: 7, adjacent };
    return {
      by: { x },
      forward() {
        const y = copyOf(x);
        define(rope, { cos, sin, x: y }, scalars);
        return y;
      },
      backward(g) {
        const back = { ...sin, values: sin.values.map((value) => -value) };
        define(rope, { cos, sin: back, x: g }, scalars);
        return { x: g };
      },
    };
  });
}

check("scale_rows, by itself,", () => {
  const [y, factor] = [some(5, 3), some(5)];
  const scaled = (x: Given) => {
    define(scaleRows, { factor, y: x }, { scale_dtype: 0 });
    return x;
  };
  return { by: { y }, forward: () => scaled(copyOf(y)), backward: (g) => ({ y: scaled(g) }) };
});

check("add", () => {
  const [x, y] = [some(7), some(7)];
  const [times, other] = [0.3, -2];
  const scaled = (g: Given, factor: number) => {
    const sum = copyOf(g);
    define(add, { y: g, x: sum }, { times: 0, other: factor });
    return sum;
  };
  return {
    by: { x, y },
    forward() {
      const sum = copyOf(x);
      define(add, { y, x: sum }, { times, other });
      return sum;
    },
    backward: (g) => ({ x: scaled(g, times), y: scaled(g, other) }),
  };
});

check("a product, by gemm,", () => {
  const [T, C, R] = [3, 5, 4];
  const [x, w] = [some(T, C), some(R, C)];
  const product = (a: Given, b: Given, c: Given, how: Scalars) => {
    const places = { a_row: 0, a_column: 0, b_row: 0, b_column: 0, c_row: 0, c_column: 0 };
    define(gemm, { a, b, c }, { ...places, add: 0, half: 0, diagonal: 0, alpha: 1, ...how });
    return c;
  };
  return {
    by: { x, w },
    forward: () =>
      product(x, w, zeros({ shape: [T, R] }), {
        ...{ m: T, n: R, k: C },
        ...{ a_transposed: 0, b_transposed: 0 },
      }),
    backward: (g) => ({
      x: product(g, w, zeros(x), { m: T, n: C, k: R, a_transposed: 0, b_transposed: 1 }),
      w: product(g, x, zeros(w), { m: R, n: C, k: T, a_transposed: 1, b_transposed: 1 }),
    }),
  };
});

for (const [kind, name] of ACTIVATIONS.entries()) {
  // ReLU has no derivative at 0.
  const away = (given: Given): Given => {
    given.values.forEach((x, i) => given.values[i] = 3 * x + 0.01 * Math.sign(x));
    return given;
  };
  check(`act with ${name}`, () => {
    const x = away(some(40));
    return {
      by: { x },
      forward() {
        const y = copyOf(x);
        define(act, { x: y }, { kind });
        return y;
      },
      backward(g) {
        define(actVjp, { x, g }, { kind });
        return { x: g };
      },
    };
  });
  check(`gate with ${name}`, () => {
    const [x, up] = [away(some(40)), some(40)];
    return {
      by: { gate: x, up },
      forward() {
        const y = copyOf(x);
        define(gate, { up, gate: y }, { kind });
        return y;
      },
      backward(g) {
        const gate_g = zeros(x);
        define(gateVjp, { gate: x, up, up_g: g, gate_g }, { kind });
        return { gate: gate_g, up: g };
      },
    };
  });
}

for (const cap of [0, 2]) {
  check(`scale_cap ${cap === 0 ? "without a cap" : "with a cap"}`, () => {
    const x = some(20);
    const scalars = { times: 1.3, cap };
    return {
      by: { x },
      forward() {
        const y = copyOf(x);
        define(scaleCap, { x: y }, scalars);
        return y;
      },
      backward(g) {
        define(scaleCapVjp, { x, g }, scalars);
        return { x: g };
      },
    };
  });
}

/** Attention by what it has: windows, shared heads, a cap, biases. */
const ATTENTIONS: Readonly<Record<string, Scalars>> = {
  "of two windows": {},
  "that sees few keys": { window: 3 },
  "with a cap": { cap: 1.5 },
  "with biases": { biased: 1 },
  "with all of them": { window: 4, cap: 2, biased: 1 },
};

for (const [name, how] of Object.entries(ATTENTIONS)) {
  check(`attention ${name}`, () => {
    const [T, heads, dim] = [14, 4, 3];
    const [q, k, v] = [some(T, heads * dim), some(T, 2 * dim), some(T, 2 * dim)];
    const bias = how.biased ? some(heads, T / 2) : some(1, 1);
    const base = { head_dim: dim, window: 0, scale: 0.7, cap: 0, biased: 0, length: T / 2 };
    const scalars = { ...base, ...how };
    const forward = () => {
      const o = zeros(q);
      define(attention, { q, k, v, bias, o }, scalars);
      return o;
    };
    return {
      by: { q, k, v },
      forward,
      backward(g) {
        const [dq, dk, dv] = [zeros(q), zeros(k), zeros(v)];
        const facts = zeros({ shape: [T, 3 * heads] });
        define(attentionVjpQ, { q, k, v, bias, o: forward(), g, dq, facts }, scalars);
        define(attentionVjpKv, { q, k, v, bias, facts, g, dk, dv }, scalars);
        return { q: dq, k: dk, v: dv };
      },
    };
  });
}

/** What `divergence` gathers of logits over the whole vocabulary. */
function gathered({ p, q, labels }: Readonly<Record<"p" | "q" | "labels", Given>>): Given {
  const [tokens = 0] = p.shape;
  const fresh = [-1e300, 0, -1e300, 0, 0, 0, 0, 0, 0, 0];
  const state = {
    shape: [tokens, 10],
    values: Float64Array.from(Array.from({ length: tokens }, () => fresh).flat()),
  };
  define(divergence, { p, q, labels, state }, { first: 0 });
  return state;
}

/** Each token's number times the gradient of its row. */
function weighed({ shape, values }: Given, g: Given): Given {
  const [, width = 1] = shape;
  return { shape, values: values.map((value, i) => value * g.values[Math.floor(i / width)]!) };
}

check("a token's KL divergence", () => {
  const [p, q] = [some(3, 7), some(3, 7)];
  const labels = { shape: [3], values: Float64Array.of(0, 1, 2) };
  return {
    by: { q },
    forward() {
      const { values: s } = gathered({ p, q, labels });
      const of = (t: number) =>
        s[t * 10 + 4]! / s[t * 10 + 1]! - (Math.log(s[t * 10 + 1]!) + s[t * 10]!) +
        Math.log(s[t * 10 + 3]!) + s[t * 10 + 2]!;
      return { shape: [3], values: Float64Array.from([0, 1, 2], of) };
    },
    backward(g) {
      const state = gathered({ p, q, labels });
      const slope = copyOf(q);
      define(divergenceVjp, { p, state, q: slope });
      return { q: weighed(slope, g) };
    },
  };
});

check("a text's likelihood", () => {
  const q = some(3, 7);
  const labels = { shape: [3], values: Float64Array.of(6, 0, 2) };
  return {
    by: { q },
    forward() {
      const { values: s } = gathered({ p: q, q, labels });
      const of = (t: number) => Math.log(s[t * 10 + 3]!) + s[t * 10 + 2]! - s[t * 10 + 6]!;
      return { shape: [3], values: Float64Array.from([0, 1, 2], of) };
    },
    backward(g) {
      const state = gathered({ p: q, q, labels });
      const slope = copyOf(q);
      define(nllVjp, { labels, state, q: slope }, { first: 0 });
      return { q: weighed(slope, g) };
    },
  };
});

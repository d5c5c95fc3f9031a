/**
 * Limits and what stands on them: Student's t, upper limits that hold as often as they say, the
 * search for the fewest bytes within bounds, and what cannot judge.
 */
import assert from "node:assert/strict";
import { openWasm } from "../src/backends/wasm/mod.ts";
import { type BitOptions, bitOptions, chooseByLoss, parseBitOptions } from "../src/bits.ts";
import { isKept } from "../src/bits/recipe.ts";
import { type Sensitivities, sensitivitiesOf } from "../src/bits/sensitivities.ts";
import { uniform } from "../src/corpora/random.ts";
import { RequestError } from "../src/errors.ts";
import type { TokenScores } from "../src/evaluator.ts";
import { studentQuantile, upperLimit, windowMeans } from "../src/evaluators/limits.ts";
import { mean } from "../src/evaluators/perplexity.ts";
import { checkWindows, firstTry, guarantee } from "../src/guarantee.ts";
import { requestOf } from "../src/plan/planned.ts";
import { plan } from "../src/plan.ts";
import { type Recipe, recipeFromOptions } from "../src/recipe.ts";
import type { Event } from "../src/report.ts";
import {
  certificateOf,
  CONFIDENCE,
  confidenceSentence,
  limitSentence,
  limitsOf,
  steers,
  useOf,
  type WindowScores,
  windowScores,
} from "../src/report/certificate.ts";
import { run } from "../src/run.ts";
import { openNowhere } from "../src/sinks/nowhere.ts";
import { openCheckpoint } from "../src/sources/checkpoint.ts";
import { open } from "../src/open.ts";
import type { PreparedWindows } from "../src/windows.ts";
import { prepareWindows } from "../src/windows.ts";
import { DEVICE } from "./plan_given.ts";
import { makeCheckpoint, TINY_CONFIG, tinyTensors } from "./tiny.ts";

/** scipy.stats.t.ppf of scipy 1.17.1. */
const QUANTILES: readonly (readonly [probability: number, freedom: number, t: number])[] = [
  [0.5, 1, 0],
  [0.5, 31, 0],
  [0.95, 1, 6.313751514675037],
  [0.95, 2, 2.9199855803537242],
  [0.95, 3, 2.3533634348018233],
  [0.95, 7, 1.8945786050900062],
  [0.95, 10, 1.8124611228116756],
  [0.95, 31, 1.6955187825458649],
  [0.95, 1000, 1.6463788172854643],
  [0.975, 1, 12.706204736174694],
  [0.975, 4, 2.7764451051977934],
  [0.975, 121, 1.9797637625053868],
  [0.9916666666666667, 2, 7.648803937915553],
  [0.9916666666666667, 7, 3.1275522742463706],
  [0.9916666666666667, 90, 2.439549632587232],
  [0.9916666666666667, 121, 2.427719150699596],
  [0.9975, 3, 7.453318505150679],
  [0.9975, 10, 3.581406202090669],
  [0.9975, 1000, 2.813277860485553],
];

Deno.test("quantiles of Student's t are scipy's", () => {
  for (const [probability, freedom, t] of QUANTILES) {
    const found = studentQuantile(probability, freedom);
    assert.ok(
      Math.abs(found - t) <= 1e-12 * Math.max(1, t),
      `${probability}, ${freedom}: ${found}`,
    );
  }
  for (
    const [probability, freedom] of [[0.4, 3], [1, 3], [0.9, 0], [0.9, 2.5], [NaN, 3]] as const
  ) {
    assert.throws(() => studentQuantile(probability, freedom), RangeError);
  }
});

Deno.test("an upper limit is the mean and t standard errors, for tries and sizes that are asked for", () => {
  const samples = Float64Array.of(1, 2, 3, 4);
  const error = Math.sqrt(5 / 3 / 4);
  const limit = (options = {}) => upperLimit(samples, { confidence: 0.95, ...options });
  const near = (a: number, b: number) => assert.ok(Math.abs(a - b) < 1e-12, `${a}, ${b}`);
  near(limit(), 2.5 + 2.3533634348018233 * error);
  near(limit({ tries: 20 }), 2.5 + 7.453318505150679 * error);
  near(limit({ size: 11 }), 2.5 + 1.8124611228116756 * Math.sqrt(5 / 3 / 11));
  assert.equal(upperLimit(Float64Array.of(2, 2, 2), { confidence: 0.95 }), 2);
  // Hall's g at −(limit − mean) / error is −t, and what leans to the left has t's own limit.
  const [m, s] = [4, Math.sqrt(50 / 3)];
  const leaning = upperLimit(Float64Array.of(1, 2, 3, 10), { confidence: 0.95 });
  const a = 45 / 12.5 ** 1.5 / 2;
  const t = -(leaning - m) / (s / 2);
  near(t + a * t ** 2 / 3 + a ** 2 * t ** 3 / 27 + a / 6, -2.3533634348018233);
  assert.ok(leaning > m + 2.3533634348018233 * s / 2);
  near(
    upperLimit(Float64Array.of(-1, -2, -3, -10), { confidence: 0.95 }),
    -4 + 2.3533634348018233 * s / 2,
  );
  assert.throws(() => upperLimit(Float64Array.of(1), { confidence: 0.95 }), /give two/);
  assert.deepEqual(windowMeans(Float64Array.of(1, 3, 5, 9), 2), Float64Array.of(2, 7));
});

/** Scores of windows of two tokens whose mean divergences are these, and whose NLLs grow by them. */
function scoresOf(divergences: readonly number[]): TokenScores {
  const divergence = Float64Array.from(divergences.flatMap((one) => [one / 2, one * 1.5]));
  // What a window's tokens are like is in both models' NLLs.
  const originalNll = divergence.map((_, i) => 3 + i % 7);
  return {
    perWindow: 2,
    divergence,
    originalNll,
    quantizedNll: originalNll.map((nll, i) => nll + divergence[i]!),
    sameTop: new Uint8Array(divergence.length),
  };
}

const TEXT = {
  corpus: "held-out.txt",
  windows: 4,
  available: 9,
  seq_len: 3,
  tokens: 12,
  seed: 0,
  sha256: "c0ffee",
};

Deno.test("a certificate judges both quantities by windows, perplexity by pairs, and holds if all do", () => {
  const tokens = scoresOf([0.01, 0.02, 0.03, 0.04]);
  const limit = 0.025 + 2.3533634348018233 * Math.sqrt(5e-4 / 3 / 4);
  const about = (bounds: Parameters<typeof certificateOf>[1]["bounds"]) =>
    certificateOf(tokens, { bounds, tries: 1, text: TEXT, steering_windows: 2 });
  const { holds, limits, confidence } = about({ kl_divergence: 0.05, perplexity_increase: 0.05 });
  assert.ok(holds);
  assert.equal(confidence, 0.95);
  const [kl, increase] = limits as [typeof limits[0], typeof limits[0]];
  assert.deepEqual([kl.quantity, increase.quantity], ["kl_divergence", "perplexity_increase"]);
  assert.ok(Math.abs(kl.limit - limit) < 1e-12 && Math.abs(kl.measured - 0.025) < 1e-12);
  // The NLL grows by as much, and perplexity by its exponential, however hard the windows are.
  assert.ok(Math.abs(increase.limit - Math.expm1(limit)) < 1e-9);
  const tight = about({ kl_divergence: 0.05, perplexity_increase: 0.04 });
  assert.deepEqual(tight.limits.map(({ holds }) => holds), [true, false]);
  assert.equal(tight.holds, false);
  assert.ok(useOf(tight.limits) > 1 && useOf(limits) < 1);
  assert.equal(
    limitSentence(tight.limits[1]!),
    "increase of perplexity 2.532, at most 4.101 %: not below 4",
  );
  assert.equal(
    confidenceSentence({ ...tight, tries: 6 }),
    "one-sided 95 % confidence, Student's t over 4 windows of 3 tokens, corrected for 6 tries",
  );
  const broken = limitsOf(windowScores(scoresOf([NaN, 1, 1])), { kl_divergence: 9 }, { tries: 1 });
  assert.equal(broken[0]!.holds, false);
  assert.equal(useOf(broken), Infinity);
});

const OPTIONS = parseBitOptions("W3A16,W4A16,W8A16,BF16");

/** A tiny model's options, and losses drawn by a rule. */
async function withWork(
  test: (work: BitOptions, sensitivities: Sensitivities) => void | Promise<void>,
  options = OPTIONS,
): Promise<void> {
  const folder = await makeCheckpoint(tinyTensors(), { config: TINY_CONFIG });
  try {
    await using source = await openCheckpoint(folder);
    const base = recipeFromOptions({ "group-size": 32 });
    const work = bitOptions(base, source, { options, device: DEVICE });
    const losses = work.groups.map((_, i) => {
      const own = 0.01 * (1 + (i * i) % 7);
      return [own, own / 4, own / 1000];
    });
    const about = { by: "divergence", model: "m", text: null } as const;
    await test(work, sensitivitiesOf(work, losses, about));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("of all choices that lose no more than a loss, that of the fewest bytes is taken", () =>
  withWork((work, sensitivities) => {
    const items = work.groups.map(({ options }, i) =>
      options.map((option) => ({
        bytes: option.bytes,
        loss: isKept(option) ? 0 : sensitivities.groups[i]!.losses[option.name]!,
      }))
    );
    const bytesOf = (numbers: readonly number[]) =>
      numbers.reduce((all, option, i) => all + items[i]![option]!.bytes, 0);
    const all = items.reduce<number[][]>(
      (ways, options) => ways.flatMap((way) => options.map((_, o) => [...way, o])),
      [[]],
    ).map((way) => ({
      bytes: bytesOf(way),
      loss: way.reduce((sum, option, i) => sum + items[i]![option]!.loss, 0),
    }));
    for (const most of [0.201, 0.1003, 0.0507, 0.0202, 0.0011]) {
      const { chosen, loss } = chooseByLoss(work, sensitivities, most)!;
      assert.ok(loss <= most * (1 + 1e-12), `${loss}`);
      const bytes = chosen.reduce((sum, { option }) => sum + option.bytes, 0);
      const least = Math.min(...all.filter(({ loss }) => loss <= most).map(({ bytes }) => bytes));
      assert.equal(bytes, least);
    }
    assert.equal(chooseByLoss(work, sensitivities, 0), undefined, "all stays as it is");
  }));

/**
 * A model whose divergence by a recipe is a multiple of what the recipe's choices lose, on windows
 * of different difficulty; which multiple depends on the method.
 */
function made(
  work: BitOptions,
  sensitivities: Sensitivities,
  { windows, noise = 0.2, factors = { auto: 0.4 }, seed = 1 }: {
    readonly windows: number;
    readonly noise?: number;
    readonly factors?: Readonly<Record<string, number>>;
    readonly seed?: number;
  },
) {
  const next = uniform(seed);
  const hard = Array.from({ length: windows }, () => 1 + noise * (next() + next() - 1));
  const measured: Recipe[] = [];
  const truth = (recipe: Recipe) => {
    const losses = new Map(sensitivities.groups.map((group) => [group.weights[0]!, group.losses]));
    const loss = work.groups.reduce((all, { names: [name], options }) => {
      const rule = recipe.rules.find(({ match }) =>
        match === undefined || new RegExp(`^(?:${match.slice(3)})`).test(name!.slice(0, -7))
      )!;
      const option = options.find((one) => one.name === rule.scheme);
      return all + (option ? losses.get(name!)![option.name]! : 0);
    }, 0);
    const method = recipe.rules.find(({ scheme }) => scheme !== "none")!.method;
    return factors[method]! * loss;
  };
  return {
    measured,
    truth,
    measure(recipe: Recipe): Promise<WindowScores> {
      measured.push(recipe);
      const scores = scoresOf(hard.map((factor) => factor * truth(recipe)));
      return Promise.resolve(windowScores(scores));
    },
  };
}

Deno.test("a search ends at the fewest bytes that keep the bound, within its tries, and tells each", () =>
  withWork(async (work, sensitivities) => {
    for (const bound of [0.06, 0.03, 0.01, 0.003]) {
      const { measure, measured } = made(work, sensitivities, { windows: 80 });
      const events: Event[] = [];
      const { best, holds, tried } = await guarantee(work, {
        sensitivities,
        bounds: { kl_divergence: bound },
        methods: ["auto"],
        maxTries: 6,
        measure,
        report: (event) => events.push(event),
      });
      assert.ok(holds);
      assert.ok(best.limits[0]!.limit < bound);
      assert.equal(tried.length, measured.length);
      assert.ok(tried.length <= 6);
      assert.deepEqual(
        events.map((event) => event.type === "tried" && event.number),
        [
          ...tried.keys(),
        ].map((i) => i + 1),
      );
      // What loses as much as the bound allows takes no fewer bytes, but for what limits and steps
      // cost.
      const ideal = chooseByLoss(work, sensitivities, bound / 0.4)!;
      const more = best.chosen.bitsPerWeight / ideal.bitsPerWeight;
      assert.ok(more >= 1 && more < 1.12, `${bound}: ${more}`);
    }
  }));

Deno.test("each method is tried once, and the search goes on with the best", () =>
  withWork(async (work, sensitivities) => {
    const factors = { auto: 0.5, gptq: 0.3, "awq+gptq": 0.6 };
    const { measure, measured } = made(work, sensitivities, { windows: 80, factors });
    const { best, tried } = await guarantee(work, {
      sensitivities,
      bounds: { kl_divergence: 0.02 },
      methods: ["auto", "gptq", "awq+gptq"],
      maxTries: 6,
      measure,
    });
    assert.deepEqual(tried.slice(0, 3).map(({ method }) => method), ["auto", "gptq", "awq+gptq"]);
    assert.ok(tried.length > 3 && tried.slice(3).every(({ method }) => method === "gptq"));
    assert.equal(best.method, "gptq");
    assert.equal(new Set(measured.map((recipe) => JSON.stringify(recipe))).size, measured.length);
    assert.ok(
      best.chosen.recipe.rules.every(({ scheme, method }) =>
        scheme === "none" || method === "gptq"
      ),
    );
  }));

Deno.test("a bound that no options keep ends with what comes nearest, and one that forbids all is refused", () =>
  withWork(async (work, sensitivities) => {
    const { measure } = made(work, sensitivities, { windows: 80 });
    const bounds = { kl_divergence: 1e-4 };
    const search = { sensitivities, bounds, methods: ["auto"], maxTries: 6, measure };
    const { best, holds, tried } = await guarantee(work, search);
    assert.equal(holds, false);
    const limits = tried.map(({ limits }) => limits[0]!.limit);
    assert.equal(best.limits[0]!.limit, Math.min(...limits));
    assert.ok(best.chosen.chosen.every(({ option }) => option.name === "W4A16"));
    assert.equal(firstTry(work, search).loss, best.chosen.loss);
  }, parseBitOptions("W3A16,W4A16")).then(() =>
    withWork(async (work, sensitivities) => {
      const { measure } = made(work, sensitivities, { windows: 80 });
      const bounds = { kl_divergence: 1e-9 };
      const search = { sensitivities, bounds, methods: ["auto"], maxTries: 6, measure };
      await assert.rejects(guarantee(work, search), RequestError);
      assert.throws(() => firstTry(work, search), /no weight may be quantized/);
    })
  ));

Deno.test("on 200 texts of a model that is known, what a search accepts keeps the bound on at least 95 % of them", () =>
  withWork(async (work, sensitivities) => {
    let [accepted, wrong] = [0, 0];
    for (let seed = 0; seed < 200; seed++) {
      const model = made(work, sensitivities, { windows: 24, noise: 0.8, seed });
      const { best, holds } = await guarantee(work, {
        sensitivities,
        bounds: { kl_divergence: 0.02 },
        methods: ["auto"],
        maxTries: 4,
        measure: model.measure,
      });
      if (!holds) continue;
      accepted++;
      if (model.truth(best.chosen.recipe) >= 0.02) wrong++;
    }
    assert.ok(accepted > 190, `${accepted}`);
    assert.ok(wrong <= 0.05 * accepted, `${wrong} of ${accepted}`);
  }));

/** Windows of tokens. */
function windowsFrom(windows: readonly (readonly number[])[]): PreparedWindows {
  return {
    ...{ corpus: "t", stateBudget: 0, seed: undefined, available: 0, tokens: 0, sha256: "" },
    seqLen: windows[0]!.length,
    windows: windows.map((tokens) => Uint32Array.from(tokens)),
  };
}

Deno.test("windows that are too few, or hold text that was calibrated on, cannot judge", () => {
  const next = uniform(3);
  const text = (tokens: number) => Array.from({ length: tokens }, () => Math.floor(next() * 1000));
  const drawn = (count: number) => Array.from({ length: count }, () => text(64));
  const seen = windowsFrom([text(100), text(100)]);
  checkWindows(windowsFrom(drawn(22)), [seen]);
  assert.throws(
    () => checkWindows(windowsFrom(drawn(20)), [seen]),
    (error) =>
      error instanceof RequestError &&
      /15 are left to judge, and 16 are the least/.test(error.message),
  );
  // A window that begins anywhere in a text that was seen.
  const own = windowsFrom([...drawn(23), Array.from(seen.windows[1]!.subarray(17, 81))]);
  assert.throws(
    () => checkWindows(own, [windowsFrom(drawn(1)), seen]),
    (error) => error instanceof RequestError && /1 of its 24 windows hold text/.test(error.message),
  );
});

Deno.test("on 50 resampled texts the limit of a real model holds for at least 95 %, where the mean alone does for half", async () => {
  // Divergences of every window of the pool by three recipes that are tried on the same texts.
  await using source = await open("sample");
  await using backend = await openWasm({});
  const prepared = await prepareWindows(source, { seqLen: 64, numSamples: 120 });
  const pools: Float64Array[] = [];
  for (const scheme of ["W3A16", "W4A16", "W8A16"]) {
    const work = plan(recipeFromOptions({ scheme, method: "rtn", "group-size": 64 }), source, {
      device: backend,
      evaluation: requestOf(prepared),
    });
    await using sink = openNowhere();
    const { tokens } = await run(work, { source, backend, sink, evaluation: prepared });
    pools.push(windowScores(tokens!).kl_divergence);
  }
  const truth = pools.map(mean);
  assert.ok(truth[0]! > truth[1]! && truth[1]! > truth[2]! && truth[2]! > 0);
  /** In how many of `texts` resampled texts the numbers are above the truth for every recipe. */
  const held = (texts: number, of: (samples: Float64Array) => number, seed: number) => {
    const next = uniform(seed);
    return Array.from({ length: texts }, () => {
      const drawn = Array.from({ length: 24 }, () => Math.floor(next() * 120));
      return pools.every((pool, i) => of(Float64Array.from(drawn, (at) => pool[at]!)) >= truth[i]!);
    }).filter(Boolean).length;
  };
  const limit = (tries: number) => (samples: Float64Array) =>
    upperLimit(samples, { confidence: CONFIDENCE, tries });
  // As many tries as a search has unless told otherwise.
  const fifty = held(50, limit(6), 0);
  assert.ok(fifty >= 0.95 * 50, `${fifty} of 50`);
  const thousands = held(4000, limit(6), 1);
  assert.ok(thousands >= 0.95 * 4000, `${thousands} of 4000`);
  // Neither the mean, nor limits that are not corrected for tries, can promise that.
  for (const [other, most] of [[mean, 0.6], [limit(1), 0.94]] as const) {
    const without = held(4000, other, 1);
    assert.ok(without < most * 4000, `${without} of 4000`);
  }
  assert.equal([0, 1, 2, 3, 4, 5, 6, 7, 8].filter(steers).join(), "0,4,8");
});

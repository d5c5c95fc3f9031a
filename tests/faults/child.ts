/**
 * A run for whoever kills it, as a process of its own: `deno run -A child.ts JSON`. It reads a model
 * from a Hub, quantizes it, saves after every unit, and publishes what it made; an output that is
 * there is only published. Its last line tells what it went through.
 */
import { openWasm } from "../../src/backends/wasm/mod.ts";
import { HubClient } from "../../src/hub/client.ts";
import { disk } from "../../src/io/disk.ts";
import { publish } from "../../src/publish.ts";
import { openHub } from "../../src/sources/hub.ts";
import { TOKEN } from "../fake_hub/mod.ts";
import { CARD, NAME } from "../publish_given.ts";
import { attempt } from "../resume_given.ts";
import { type Kill, Moments, type Stage } from "./moments.ts";
import { CALIBRATED } from "./suite.ts";

/** What such a process is to do. */
export interface Given {
  readonly endpoint: string;
  /** A repository there. */
  readonly model: string;
  readonly out: string;
  readonly kill?: Kill;
}

/** What it has to tell at its end. */
export interface Told {
  readonly moments: Readonly<Record<Stage, number>>;
  /** Units of earlier processes that it went on after. */
  readonly resumed: number;
}

async function main({ endpoint, model, out, kill }: Given): Promise<Told> {
  const moments = new Moments(kill);
  let [doing, resumed]: [Stage, number] = ["header", 0];
  const fetching = moments.fetching(({ pathname }) =>
    doing === "publish"
      ? doing
      : /\/revision\//.test(pathname)
      ? "resolve"
      : /\/tree\//.test(pathname)
      ? "tree"
      : /\.index\.json$/.test(pathname)
      ? "index"
      : doing
  );
  const hub = { endpoint, token: TOKEN, userAgent: "sluice-test", fetch: fetching };
  await using wasm = await openWasm({ threads: 1 });
  const backend = moments.device(wasm);
  if (!await disk.lstat(out)) {
    await attempt({
      ...CALIBRATED,
      model,
      open: async () => {
        const source = await openHub(model, { client: new HubClient(hub) });
        doing = "read";
        return source;
      },
      backend,
      out,
    }, {
      disk: moments.disk(),
      report(event) {
        if (event.type === "resumed") resumed = event.units;
      },
    });
  }
  doing = "publish";
  await publish(out, NAME, { hub, card: CARD, backend: wasm });
  return { moments: moments.counts, resumed };
}

if (import.meta.main) {
  const told = await main(JSON.parse(Deno.args[0]!) as Given);
  Deno.stdout.writeSync(new TextEncoder().encode(`${JSON.stringify(told)}\n`));
}

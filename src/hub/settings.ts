/**
 * The environment variables that users of the Hub expect (reference: huggingface_hub's
 * environment_variables.md). A pure mapping: the caller gives the variables, and a function for the
 * token file.
 */

/** What the environment says. */
export interface HubSettings {
  /** Without a slash at its end. */
  readonly endpoint: string;
  /** For writing; also for reading, unless `HF_HUB_DISABLE_IMPLICIT_TOKEN` is set. */
  readonly token: string | undefined;
  /** For reading. */
  readonly readToken: string | undefined;
  /** Nothing is asked of the network. */
  readonly offline: boolean;
  /** Where Python programs keep what they downloaded; undefined when there is no home. */
  readonly cacheFolder: string | undefined;
  /** Milliseconds a server may be silent. */
  readonly idleTimeout: number;
}

/** The Hub itself. */
export const HUB = "https://huggingface.co";

/** Seconds a server may be silent when nothing else is said, as in huggingface_hub. */
const IDLE_SECONDS = 10;

/** The variables that are looked at: what `--allow-env` must list. */
export const HUB_VARIABLES = [
  "HF_TOKEN",
  "HUGGING_FACE_HUB_TOKEN",
  "HF_TOKEN_PATH",
  "HF_HUB_DISABLE_IMPLICIT_TOKEN",
  "HF_ENDPOINT",
  "HF_HOME",
  "HF_HUB_CACHE",
  "HUGGINGFACE_HUB_CACHE",
  "XDG_CACHE_HOME",
  "HOME",
  "USERPROFILE",
  "HF_HUB_OFFLINE",
  "TRANSFORMERS_OFFLINE",
  "HF_HUB_DOWNLOAD_TIMEOUT",
] as const;

/**
 * Read the settings.
 *
 * @param readText the text of a file, or undefined when it is not there or may not be read
 */
export async function hubSettings(
  env: Readonly<Record<string, string | undefined>>,
  readText: (path: string) => Promise<string | undefined>,
): Promise<HubSettings> {
  const home = env.HOME || env.USERPROFILE;
  const expand = (path: string) =>
    path.replace(/^~(?=$|[/\\])/, () => home ?? "~")
      .replace(/\$(?:\{(\w+)\}|(\w+))/g, (whole, a?: string, b?: string) => env[a ?? b!] ?? whole);
  const caches = env.XDG_CACHE_HOME || (home && `${home}/.cache`);
  const place = env.HF_HOME || (caches && `${caches}/huggingface`);
  const base = place && expand(place);
  const cache = env.HF_HUB_CACHE || env.HUGGINGFACE_HUB_CACHE || (base && `${base}/hub`);
  const tokenFile = env.HF_TOKEN_PATH || (base && `${base}/token`);
  const token = clean(env.HF_TOKEN) ?? clean(env.HUGGING_FACE_HUB_TOKEN) ??
    (tokenFile ? clean(await readText(expand(tokenFile))) : undefined);
  const seconds = Number(env.HF_HUB_DOWNLOAD_TIMEOUT);
  return {
    endpoint: (env.HF_ENDPOINT?.trim() || HUB).replace(/\/+$/, ""),
    token,
    readToken: isTrue(env.HF_HUB_DISABLE_IMPLICIT_TOKEN) ? undefined : token,
    offline: isTrue(env.HF_HUB_OFFLINE) || isTrue(env.TRANSFORMERS_OFFLINE),
    cacheFolder: cache ? expand(cache) : undefined,
    idleTimeout: 1000 * (seconds > 0 && seconds < 86_400 ? seconds : IDLE_SECONDS),
  };
}

function clean(token: string | undefined): string | undefined {
  return token?.replace(/[\r\n]/g, "").trim() || undefined;
}

function isTrue(value: string | undefined): boolean {
  return /^(?:1|on|yes|true)$/i.test(value?.trim() ?? "");
}

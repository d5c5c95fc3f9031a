/** What this program is, for what it writes. */
import denoJson from "../deno.json" with { type: "json" };

/** The version of Sluice. */
export const VERSION: string = denoJson.version;

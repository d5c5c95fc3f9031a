/**
 * Who is at which unit, where saying so costs a commit: rarely told, never renewed, without clocks.
 * A worker claims its share when it comes. One that has nothing left takes the last half of what
 * the one with most has still before it, so that helper and owner meet in the middle; where each
 * has one unit left, which it is probably at, the helper watches one of those, and takes it over
 * only when nothing comes of it for long. That a unit is done twice costs work and no more. Pure.
 */
import { quote, RequestError } from "../errors.ts";
import { isObject, parseObject } from "../json.ts";
import type { Share } from "../run/meeting_place.ts";
import { nameOf } from "../run/work_job.ts";

/** What a repository says of who is at what. */
export const CLAIMS_FILE = "claims.json";

/** Units by their number, with the names of workers. */
export interface Claims {
  /** Who is to do a unit. */
  readonly holders: ReadonlyMap<number, string>;
  /** Who waits whether anything comes of it. */
  readonly watchers: ReadonlyMap<number, string>;
  /** Milliseconds that the slowest unit took so far, as workers tell it; 0: none was done. */
  readonly slowest: number;
}

/** A worker that asks what to do. */
export interface Asker extends Share {
  /** Of this process alone. */
  readonly name: string;
  /** Whether it has done a unit; one that has not stays as long as there may be something to do. */
  readonly worked: boolean;
}

/** What a worker is to do next; the claims are those of units that are not done. */
export type Decision =
  | { readonly kind: "take"; readonly units: readonly number[]; readonly claims: Claims }
  | { readonly kind: "watch"; readonly unit: number; readonly claims: Claims }
  /** Others are at what is left, and watch each other. */
  | { readonly kind: "leave" };

/** Decide what a worker does next, of the units that are not done. */
export function decide(open: readonly number[], known: Claims, asker: Asker): Decision {
  const { name, index, count, worked } = asker;
  const claims = only(open, known);
  const { watchers } = claims;
  const isMine = (unit: number) =>
    (claims.holders.get(unit) ?? (unit % count === index && name)) === name;
  const own = open.filter(isMine);
  if (own.length > 0) return taken(own, claims, name);
  const most = poolsOf(open, claims).sort((a, b) => b.length - a.length)[0];
  if (most && most.length > 0) return taken(most, claims, name);
  const unwatched = open.filter((unit) => !watchers.has(unit));
  const unit = unwatched.at(-1) ?? (worked ? undefined : open.at(-1));
  if (unit === undefined) return { kind: "leave" };
  if (watchers.has(unit)) return { kind: "watch", unit, claims };
  const watched = { ...claims, watchers: new Map(watchers).set(unit, name) };
  return { kind: "watch", unit, claims: watched };
}

/** The claims once a worker has taken over a unit. */
export function takenOver(unit: number, open: readonly number[], known: Claims, name: string) {
  return taken([unit], only(open, known), name).claims;
}

/**
 * What may be taken of each worker: the last half, so that what it is at now stays its own; and
 * half of what nobody has claimed, for whoever comes late.
 */
function poolsOf(open: readonly number[], { holders }: Claims): number[][] {
  const pools = Map.groupBy(open, (unit) => holders.get(unit));
  return [...pools].map(([holder, units]) => {
    const half = units.length / 2;
    return units.slice(holder === undefined ? Math.floor(half) : Math.ceil(half));
  });
}

function taken(units: readonly number[], claims: Claims, name: string) {
  const { holders, watchers } = claims;
  const after = {
    ...claims,
    holders: new Map([...holders, ...units.map((unit) => [unit, name] as const)]),
    watchers: new Map([...watchers].filter(([unit]) => !units.includes(unit))),
  };
  return { kind: "take", units, claims: after } as const;
}

function only(open: readonly number[], claims: Claims): Claims {
  const kept = (map: ReadonlyMap<number, string>) =>
    new Map([...map].filter(([unit]) => open.includes(unit)).sort(([a], [b]) => a - b));
  return { ...claims, holders: kept(claims.holders), watchers: kept(claims.watchers) };
}

/** Claims as a file has them. */
export function claimsText({ holders, watchers, slowest }: Claims): string {
  const named = (map: ReadonlyMap<number, string>) =>
    Object.fromEntries(
      [...map].sort(([a], [b]) => a - b).map(([unit, name]) => [nameOf(unit), name]),
    );
  const root = { claims: 1, holders: named(holders), watchers: named(watchers), slowest };
  return JSON.stringify(root, null, 1);
}

/**
 * Read claims.
 *
 * @param text Undefined where there are none.
 * @param path The place, for messages.
 * @throws {RequestError} they are of another version.
 */
export function parseClaims(text: string | undefined, path: string): Claims {
  if (text === undefined) return { holders: new Map(), watchers: new Map(), slowest: 0 };
  const root = parseObject(text);
  const holders = root?.claims === 1 ? unitsOf(root.holders) : undefined;
  const watchers = unitsOf(root?.watchers);
  const slowest = root?.slowest;
  if (holders && watchers && typeof slowest === "number") return { holders, watchers, slowest };
  throw new RequestError(
    `Cannot work in ${quote(path)}: its ${CLAIMS_FILE} is not what this version of Sluice ` +
      "writes. Remove it: it only spares work.",
  );
}

function unitsOf(value: unknown): Map<number, string> | undefined {
  if (!isObject(value)) return undefined;
  const entries = Object.entries(value);
  const sound = entries.every(([unit, name]) => /^\d{5,9}$/.test(unit) && typeof name === "string");
  return sound ? new Map(entries.map(([unit, name]) => [Number(unit), String(name)])) : undefined;
}

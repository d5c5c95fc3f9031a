/**
 * What a disk may hold after the power failed, by a log of what was done on it: what was synced,
 * and of the rest nothing, all, what came first, or any of it, writes torn between sectors. Names
 * are no safer than their folder's last sync; a rename happens as a whole or not at all.
 */
import { join } from "node:path";
import type { Operation } from "./twin.ts";

/** What of that which was not synced is there: `any` is drawn anew for each state. */
export const SURVIVALS = ["none", "all", "first", "any"] as const;
export type Survival = typeof SURVIVALS[number];

const SECTOR = 512;

type Folder = Map<string, Node>;
interface Node {
  /** Present where it is a folder. */
  readonly entries?: Folder;
  readonly secret?: boolean;
  bytes: Uint8Array<ArrayBuffer>;
}

/** A change that the disk makes whole or not at all. */
interface Change {
  /** Position in the log. */
  readonly at: number;
  /** Whose sync makes it last: files or folders. */
  readonly of: readonly Node[];
  /** @param share How much of a write, from 0 to 1. */
  readonly apply: (share: number) => void;
}

/** Changes of the log, in order, each on nodes of a tree that is empty before the first. */
function changesOf(log: readonly Operation[]): {
  readonly root: Node;
  readonly changes: readonly Change[];
  /** For each sync of the log, whose it was. */
  readonly synced: ReadonlyMap<number, Node>;
} {
  // The tree as a whole run makes it tells which file or folder each path means; the changes are
  // of another tree of the same nodes, which has only what survives.
  const folder = (secret: boolean): Node => ({
    entries: new Map(),
    secret,
    bytes: new Uint8Array(0),
  });
  const root = folder(false);
  const seen = new Map<Node, Folder>([[root, new Map()]]);
  const files: Node[] = [];
  const changes: Change[] = [];
  const synced = new Map<number, Node>();
  const find = (path: string): Node => {
    let node = root;
    for (const part of path.split("/").filter((part) => part !== "")) {
      node = seen.get(node)!.get(part)!;
    }
    return node;
  };
  const split = (path: string) => {
    const cut = path.lastIndexOf("/");
    return { parent: find(path.slice(0, Math.max(cut, 0))), name: path.slice(cut + 1) };
  };
  const link = (at: number, path: string, node: Node) => {
    const { parent, name } = split(path);
    seen.get(parent)!.set(name, node);
    changes.push({ at, of: [parent], apply: () => parent.entries!.set(name, node) });
  };
  const unlink = (at: number, path: string) => {
    const node = find(path);
    // All in it goes before it does, each thing for itself.
    for (const name of [...seen.get(node)?.keys() ?? []].sort()) unlink(at, `${path}/${name}`);
    const { parent, name } = split(path);
    seen.get(parent)!.delete(name);
    changes.push({ at, of: [parent], apply: () => parent.entries!.delete(name) });
  };
  const resize = (at: number, node: Node, size: number) => {
    changes.push({ at, of: [node], apply: () => node.bytes = resized(node.bytes, size) });
  };
  for (const [at, step] of log.entries()) {
    switch (step.kind) {
      case "create": {
        const node: Node = { bytes: new Uint8Array(0) };
        files[step.file] = node;
        link(at, step.path, node);
        resize(at, node, step.size);
        break;
      }
      case "reopen":
        files[step.file] = find(step.path);
        resize(at, find(step.path), step.size);
        break;
      case "write": {
        const node = files[step.file]!;
        changes.push({
          at,
          of: [node],
          apply(share) {
            const { bytes, offset } = step;
            const kept = share === 1
              ? bytes
              : bytes.subarray(0, Math.floor(bytes.length * share / SECTOR) * SECTOR);
            const size = Math.max(node.bytes.length, offset + kept.length);
            node.bytes = resized(node.bytes, size);
            node.bytes.set(kept, offset);
          },
        });
        break;
      }
      case "makeFolder": {
        const node = folder(step.secret);
        seen.set(node, new Map());
        link(at, step.path, node);
        break;
      }
      case "rename": {
        const node = find(step.path);
        const [from, to] = [split(step.path), split(step.to)];
        seen.get(from.parent)!.delete(from.name);
        seen.get(to.parent)!.set(to.name, node);
        changes.push({
          at,
          of: [from.parent, to.parent],
          apply() {
            from.parent.entries!.delete(from.name);
            to.parent.entries!.set(to.name, node);
          },
        });
        break;
      }
      case "remove":
        unlink(at, step.path);
        break;
      case "sync":
        synced.set(at, files[step.file]!);
        break;
      case "syncFolder":
        synced.set(at, find(step.path));
        break;
    }
  }
  return { root, changes, synced };
}

function resized(bytes: Uint8Array<ArrayBuffer>, size: number): Uint8Array<ArrayBuffer> {
  if (bytes.length === size) return bytes;
  const other = new Uint8Array(size);
  other.set(bytes.subarray(0, size));
  return other;
}

/**
 * Write into an empty folder what a disk may hold after the power failed.
 *
 * @param options.at How many operations of the log were done.
 * @param options.settled How many of the first have long been on the disk.
 * @param options.next Numbers in [−1, 1) for what is drawn.
 */
export async function powerFail(
  log: readonly Operation[],
  into: string,
  { at, settled = 0, survival, next }: {
    readonly at: number;
    readonly settled?: number;
    readonly survival: Survival;
    readonly next: () => number;
  },
): Promise<void> {
  const { root, changes, synced } = changesOf(log.slice(0, at));
  const lasts = (change: Change) =>
    change.at < settled ||
    [...synced].some(([sync, node]) =>
      change.of.includes(node) && change.at < (log[sync] as { readonly since: number }).since
    );
  const draw = () => (next() + 1) / 2;
  const cut = draw();
  const loose = changes.filter((change) => !lasts(change));
  const first = new Set(loose.slice(0, Math.floor(cut * (loose.length + 1))));
  const kept = new Set(loose);
  for (const change of changes) {
    if (!kept.has(change)) change.apply(1);
    else if (survival === "all" || survival === "first" && first.has(change)) change.apply(1);
    else if (survival === "any" && draw() < 0.6) change.apply(draw() < 0.5 ? 1 : draw());
  }
  await write(root, into);
}

async function write({ entries }: Node, path: string): Promise<void> {
  for (const [name, node] of entries!) {
    const place = join(path, name);
    if (node.entries) {
      await Deno.mkdir(place, node.secret ? { mode: 0o700 } : {});
      await write(node, place);
    } else {
      await Deno.writeFile(place, node.bytes);
    }
  }
}

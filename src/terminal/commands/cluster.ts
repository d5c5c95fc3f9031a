/**
 * `sluice cluster`: job files for schedulers that people have, for a plan that machines share. Prints
 * one, and starts nothing.
 */
import { resolve } from "node:path";
import denoJson from "../../../deno.json" with { type: "json" };
import { stringify } from "yaml";
import { quote, RequestError } from "../../errors.ts";
import { isHubPlace } from "../../meeting/names.ts";
import type { Command, ParsedArguments } from "../command.ts";
import { shellWord } from "../text.ts";
import { MEETING_PLACE, openPlace } from "./meeting.ts";
import { warningsTo } from "./messages.ts";

/** The version of Deno that Sluice is tested with, as an image that has nothing else in it. */
const IMAGE = "docker.io/denoland/deno:2.9.6";

/** What Deno has to allow a worker: the checkout and the model, the job, a driver's variables. */
const PROGRAM = "deno run --no-prompt --allow-read --allow-write --allow-env --allow-net " +
  "--allow-sys --allow-ffi cli.ts";

/** What a job file is made of. */
interface Work {
  /** A folder, or `hf://org/name`. */
  readonly folder: string;
  readonly isOnHub: boolean;
  /** The words of `merge` that say where the result goes. */
  readonly result: string;
  readonly workers: number;
  readonly program: string;
  readonly image: string;
}

/** `sluice cluster ENGINE FOLDER` */
export const clusterCommand: Command = {
  arguments: [
    { name: "engine", help: "slurm, kubernetes or hf-jobs" },
    MEETING_PLACE,
  ],
  flags: [
    {
      name: "workers",
      type: "integer",
      placeholder: "n",
      min: 1,
      max: 1000,
      help: "how many workers, each a job of its own",
      default: 4,
      group: "Jobs",
    },
    {
      name: "output",
      short: "o",
      type: "string",
      placeholder: "folder",
      path: true,
      help: "where the merged result goes (FOLDER-merged unless given)",
      group: "Jobs",
    },
    {
      name: "upload-repo",
      type: "string",
      placeholder: "org/name",
      help: "publish the merged result on the Hub",
      group: "Jobs",
    },
    {
      name: "program",
      type: "string",
      placeholder: "command",
      help: "how Sluice is started there",
      default: PROGRAM,
      group: "Jobs",
    },
    {
      name: "image",
      type: "string",
      placeholder: "name",
      help: "kubernetes, hf-jobs: an image that has Deno and Sluice's files where the job begins",
      default: IMAGE,
      group: "Jobs",
    },
  ],
  examples: [
    ["cluster slurm /shared/job --workers 8 > job.sh", "an array of eight; then: sbatch job.sh"],
    [
      "cluster kubernetes /shared/job > job.yaml",
      "an Indexed Job; then: kubectl apply -f job.yaml",
    ],
    [
      "cluster hf-jobs hf://me/job --upload-repo me/model-int4 > job.sh",
      "jobs on the Hub that meet in a repository there; then: bash job.sh",
    ],
  ],
  async run(parsed, host) {
    const [engine, path] = parsed.arguments as [string, string];
    const print = Object.hasOwn(ENGINES, engine)
      ? ENGINES[engine as keyof typeof ENGINES]
      : undefined;
    if (!print) {
      throw new RequestError(
        `Cannot write a job for ${JSON.stringify(engine)}: there are ${
          Object.keys(ENGINES).join(", ")
        }.`,
      );
    }
    await using stack = new AsyncDisposableStack();
    const { report } = warningsTo(host, parsed);
    const { job, path: folder } = await openPlace(path, { host, report, stack });
    const work = workOf(parsed, folder);
    // A worker more than there are units would have nothing to begin with.
    host.out.write(print({ ...work, workers: Math.min(work.workers, job.units.length) }));
  },
};

function workOf(parsed: ParsedArguments, folder: string): Work {
  const isOnHub = isHubPlace(folder);
  return {
    folder,
    isOnHub,
    result: resultOf(parsed, folder),
    workers: Number(parsed.get("workers")),
    program: String(parsed.get("program")),
    image: String(parsed.get("image")),
  };
}

/** @throws {RequestError} it would go with the machine that made it. */
function resultOf(parsed: ParsedArguments, folder: string): string {
  const [output, upload] = [parsed.get("output"), parsed.get("upload-repo")];
  const published = upload === undefined
    ? []
    : [`--upload-repo ${shellWord(String(upload))} --yes`];
  if (output !== undefined) {
    return [`--output ${shellWord(resolve(String(output)))}`, ...published].join(" ");
  }
  if (published.length > 0) return published[0]!;
  if (!isHubPlace(folder)) return `--output ${shellWord(`${folder}-merged`)}`;
  throw new RequestError(
    `Cannot write a job for ${quote(folder)}: say where the merged result goes, --upload-repo or ` +
      "--output, for no folder is known that stays.",
  );
}

/** A job file of each engine. */
const ENGINES = { slurm, kubernetes, "hf-jobs": hfJobs } as const;

const ABOUT = `made by sluice ${denoJson.version}`;

/**
 * An array, and a merge that comes whatever became of it and says what is missing: one that waited
 * for success (`afterok`) would wait for ever once an index failed. The number of workers stands
 * here, for `SLURM_ARRAY_TASK_COUNT` is another where some indices are run again.
 */
function slurm({ folder, result, workers, program }: Work): string {
  const job = shellWord(folder);
  return `#!/bin/bash
# ${ABOUT}. Begin: sbatch job.sh. What is done stays, so that it may be begun again.
#SBATCH --job-name=sluice
#SBATCH --array=0-${workers - 1}
#SBATCH --requeue
#SBATCH --open-mode=append

if [ "$SLURM_ARRAY_TASK_ID" = 0 ] && [ -z "$SLURM_RESTART_COUNT" ]; then
  sbatch --job-name=sluice-merge --dependency="afterany:$SLURM_ARRAY_JOB_ID" \\
    --wrap ${shellWord(`exec ${program} merge ${job} ${result}`)}
fi
# Signals are for Sluice, not for a shell around it.
exec ${program} work ${job} --worker-index "$SLURM_ARRAY_TASK_ID/${workers}"
`;
}

/**
 * An Indexed Job whose indices fail alone (`backoffLimitPerIndex`, Kubernetes 1.33): a worker that
 * is stopped (exit code 75) or evicted is begun again, one that was asked for wrongly is not.
 */
function kubernetes({ folder, isOnHub, result, workers, program, image }: Work): string {
  // Kubernetes has variables of its own, as $(NAME), and $$ for a $.
  const [job, out] = [shellWord(folder), result].map((text) => text.replaceAll("$", "$$$$"));
  const claim = { name: "job", persistentVolumeClaim: { claimName: "sluice" } };
  const pod = (words: string) => ({
    restartPolicy: "Never",
    terminationGracePeriodSeconds: 60,
    containers: [{
      name: "sluice",
      image,
      command: ["/bin/sh", "-c", `exec ${program} ${words}`],
      ...(isOnHub
        ? {
          env: [{
            name: "HF_TOKEN",
            valueFrom: { secretKeyRef: { name: "sluice", key: "HF_TOKEN" } },
          }],
        }
        : {
          volumeMounts: [{
            name: "job",
            mountPath: folder.split("/").slice(0, -1).join("/") || "/job",
          }],
        }),
    }],
    ...(isOnHub ? {} : { volumes: [claim] }),
  });
  const jobs = [
    {
      apiVersion: "batch/v1",
      kind: "Job",
      metadata: { name: "sluice-work" },
      spec: {
        completionMode: "Indexed",
        completions: workers,
        parallelism: workers,
        backoffLimitPerIndex: 3,
        maxFailedIndexes: workers,
        podFailurePolicy: {
          rules: [
            {
              action: "Ignore",
              onPodConditions: [{ type: "DisruptionTarget", status: "True" }],
            },
            {
              action: "FailIndex",
              onExitCodes: { containerName: "sluice", operator: "In", values: [1, 2] },
            },
          ],
        },
        template: {
          spec: pod(`work ${job} --worker-index "$JOB_COMPLETION_INDEX/${workers}"`),
        },
      },
    },
    {
      apiVersion: "batch/v1",
      kind: "Job",
      metadata: { name: "sluice-merge" },
      spec: {
        // Begun by hand once the workers are done: kubectl patch job sluice-merge …
        suspend: true,
        backoffLimit: 0,
        template: { spec: pod(`merge ${job} ${out}`) },
      },
    },
  ];
  return [
    isOnHub
      ? `# ${ABOUT}. No volume is shared. The token: kubectl create secret generic sluice --from-literal=HF_TOKEN=…`
      : `# ${ABOUT}. The claim "sluice" is a volume that all nodes write (ReadWriteMany).`,
    // Without a timeout it would give up after half a minute; below 0 it waits for a week.
    `# Begin: kubectl apply -f job.yaml. Then: kubectl wait --for=condition=complete --timeout=-1s \\`,
    `#   job/sluice-work \\`,
    `#   && kubectl patch job sluice-merge -p '{"spec":{"suspend":false}}'`,
    ...jobs.map((job) => stringify(job, { lineWidth: 0 }).trimEnd()).join("\n---\n").split("\n"),
    "",
  ].join("\n");
}

/** There are no arrays: a job for each worker, whose usual time of 30 minutes is too short. */
function hfJobs({ folder, isOnHub, result, workers, program, image }: Work): string {
  const run = (words: string) =>
    `hf jobs run --detach --timeout 6h --secrets HF_TOKEN ${image} /bin/sh -c ${
      shellWord(`exec ${program} ${words}`)
    }`;
  const job = shellWord(folder);
  return `#!/bin/bash
# ${ABOUT}. ${
    isOnHub
      ? `The jobs meet in ${quote(folder)}, and share nothing else.`
      : `${
        quote(folder)
      } is in a bucket that is mounted in each job: add --volume to the lines below.`
  }
for i in $(seq 0 ${workers - 1}); do
  ${run(`work ${job} --worker-index INDEX/${workers}`).replace("INDEX", `'"$i"'`)}
done
# When hf jobs ps shows none of them:
# ${run(`merge ${job} ${result}`)}
`;
}

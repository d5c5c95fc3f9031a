#!/usr/bin/env bash
# A real Slurm (Debian's slurm-wlm and munge) with three nodes on this host, as root: an array of four
# workers by the job file that `sluice cluster slurm` prints. One is killed, one comes late; what is
# merged must be what one machine writes. `deno task test:slurm`
set -euo pipefail
cd "$(dirname "$0")/../.."
for program in slurmctld slurmd munged; do
  command -v "$program" >/dev/null || { echo "There is no $program: apt-get install slurm-wlm munge" >&2; exit 1; }
done
place=$(mktemp -d /tmp/sluice-slurm-XXXXXX)
host=$(hostname -s)
deno=$(command -v deno)
mkdir -p "$place"/{state,log,spool.n1,spool.n2,spool.n3}
cat > "$place/slurm.conf" <<CONF
ClusterName=sluice
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
SlurmctldPort=17817
StateSaveLocation=$place/state
SlurmdSpoolDir=$place/spool.%n
SlurmctldPidFile=$place/slurmctld.pid
SlurmdPidFile=$place/slurmd.%n.pid
SlurmctldLogFile=$place/log/slurmctld.log
SlurmdLogFile=$place/log/slurmd.%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SchedulerType=sched/backfill
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
ReturnToService=2
KillWait=5
NodeName=n[1-3] NodeHostname=$host NodeAddr=127.0.0.1 Port=[17821-17823] CPUs=1 RealMemory=1000 State=UNKNOWN
PartitionName=debug Nodes=n[1-3] Default=YES MaxTime=INFINITE State=UP
CONF
export SLURM_CONF=$place/slurm.conf
stop() {
  for file in "$place"/*.pid; do [ -f "$file" ] && kill "$(cat "$file")" 2>/dev/null; done
  pkill -f "munged --socket=$place" 2>/dev/null || true
}
trap stop EXIT
mkdir -p /run/munge && chown munge:munge /run/munge && chmod 755 /run/munge
pgrep -x munged >/dev/null || runuser -u munge -- munged
slurmctld -c
for node in n1 n2 n3; do slurmd -N "$node"; done
for _ in $(seq 50); do [ "$(sinfo -h -t idle -o %D 2>/dev/null)" = 3 ] && break; sleep 0.2; done

sluice() { "$deno" run -A cli.ts "$@"; }
# An array by flags that say how blocks are calibrated.
array() {
  local place=$1 flags=(--group-size 64 --device wasm --threads 1 "${@:2}")
  mkdir "$place"
  sluice plan sample "${flags[@]}" --work-dir "$place/job" >/dev/null
  sluice cluster slurm "$place/job" --workers 4 --output "$place/merged" --program "$deno run -A $PWD/cli.ts" > "$place/job.sh"
  cd "$place"
  job=$(sbatch --parsable job.sh)
  # The second is killed once it is at work, and the fourth waits, for there are three nodes.
  for _ in $(seq 200); do [ -n "$(ls job/leases 2>/dev/null)" ] && pkill -KILL -f "worker-index 1/4" && break; sleep 0.1; done
  killed=$(scontrol show job "${job}_1" | sed -nE 's/.*JobState=([A-Z]+).*/\1/p' | head -1)
  for _ in $(seq 900); do [ -z "$(squeue -h)" ] && break; sleep 0.2; done
  cd - >/dev/null
  [ -d "$place/merged" ] || { cat "$place"/slurm-*.out; echo "nothing was merged" >&2; exit 1; }
  sluice quantize sample "${flags[@]}" --output "$place/alone" >/dev/null 2>&1
  diff -r "$place/merged" "$place/alone"
  cat "$place"/slurm-*.out | grep -aE "^did " || true
  echo "${*:2}: the killed worker was $killed; the merged bytes are those of one machine"
}
array "$place/rtn" --method rtn
texts=(--num-samples 32 --seq-len 256)
array "$place/float" "${texts[@]}" --calibrate-on float
array "$place/shards" "${texts[@]}" --calibration-shards 4
rm -rf "$place"

#!/usr/bin/env bash
# Has transformers, compressed-tensors, bitsandbytes and GPTQModel open what Sluice writes, and compares weights, bytes and logits; then holds
# the loader table to its word, on tiny models of many architectures in every format, and job files to Kubernetes' schemas.
# Ends with "N passed, N failed". Needs Python 3.11 or newer and, the first time, a package registry for pip.
#
#   SLUICE_PEERS_MODELS   "sample smollm2-135m" (default), or one of them, or "none"
#   SLUICE_PEERS_ARCHITECTURES  "all" (default), "none", or names of models/tiny_models.py, separated by spaces
#   SLUICE_PEERS_SCHEMES  schemes to try, separated by spaces; with @gptq or @awq in another format than the scheme's own, with
#                         +static with activations rounded by scales that calibration fixes, with :awq+gptq by that method instead
#                         of rounding to nearest; mixed@gptq is mixed_gptq.yaml, mixed is mixed_widths.yaml
#   SLUICE_PEERS_CACHE    folder for the environment and the model [${TMPDIR:-/tmp}/sluice-peers]
#   SLUICE_PEERS_VENV     the Python environment [$SLUICE_PEERS_CACHE/venv]
#   SLUICE_PEERS_THREADS  threads torch may use [2]
#   SLUICE_PEERS_DEVICE   device of Sluice, wasm or webgpu [wasm]
#   PYTHON                the interpreter that makes the environment [python3]
set -euo pipefail
cd "$(dirname "$0")/../.."

peers=tests/peers
cache=${SLUICE_PEERS_CACHE:-${TMPDIR:-/tmp}/sluice-peers}
venv=${SLUICE_PEERS_VENV:-$cache/venv}
models=${SLUICE_PEERS_MODELS:-sample smollm2-135m}
architectures=${SLUICE_PEERS_ARCHITECTURES:-all}
schemes=${SLUICE_PEERS_SCHEMES:-W4A16 W4A16_ASYM W8A16 W8A8 W8A8+static FP8_DYNAMIC FP8_DYNAMIC+static NF4 LLM_INT8 mixed W4A16@gptq W3A16@gptq W8A16@gptq mixed@gptq W4A16_ASYM@awq W4A16@awq W4A16_ASYM:awq+gptq W3A16_ASYM:awq+gptq W4A16:gptq W8A8+static:smoothquant NF4:gptq W4A16@gptq:awq+gptq W4A16_ASYM@awq:awq+gptq}
threads=${SLUICE_PEERS_THREADS:-2}
device=${SLUICE_PEERS_DEVICE:-wasm}
python=$venv/bin/python
export TQDM_DISABLE=1 HF_HUB_OFFLINE=1 TRANSFORMERS_VERBOSITY=error PYTHONWARNINGS=ignore PYTHONDONTWRITEBYTECODE=1
export OMP_NUM_THREADS=$threads
# GPTQModel would compile its kernels at the first product, for minutes.
export TORCH_COMPILE_DISABLE=1

mkdir -p "$cache"
[ -x "$python" ] || "${PYTHON:-python3}" -m venv "$venv"
# Installs nothing, and asks nobody, when the pinned versions are there.
"$python" -m pip install --quiet --disable-pip-version-check --requirement "$peers/requirements.txt"

work=$(mktemp -d "$cache/run.XXXXXX")
trap 'rm -rf "$work"' EXIT
: > "$work/lines"

# Runs a command, shows and keeps its lines, and makes a line of its own of a command that failed without one.
step() {
  local label=$1 code=0
  shift
  "$@" > "$work/out" 2> "$work/err" || code=$?
  grep -aE '^(ok  |FAIL|    ) ' "$work/out" | tee -a "$work/lines" || true
  if [ "$code" -ne 0 ] && ! grep -q '^FAIL' "$work/out"; then
    echo "FAIL $label: exit code $code" | tee -a "$work/lines"
    tail -n 20 "$work/out" "$work/err" | sed 's/^/     /'
  fi
  return "$code"
}

# Runs one of Sluice's commands; that it ends well is itself what is checked.
sluice() {
  local label=$1
  shift
  step "$label: $1" deno run -A cli.ts "$@" || return
  echo "ok   $label: sluice $1" | tee -a "$work/lines"
}

open_with_peers() {
  local name=$1 source=$2 scheme=${3%:*}
  local label="$name $3" out="$work/checkpoint" window="$peers/windows/$name.json"
  local options=(--scheme "${scheme%@*}") method=rtn
  case $scheme in
    mixed@gptq) options=(--recipe "$peers/mixed_gptq.yaml") ;;
    mixed) options=(--recipe "$peers/mixed_widths.yaml") ;;
    *+static) options=(--scheme "${scheme%+static}" --activations static --num-samples 8 --seq-len 256) ;;
    *@*) options+=(--group-size 64 --format "${scheme#*@}") ;;
    W?A16|W?A16_ASYM) options+=(--group-size 64) ;;
  esac
  case $3 in
    # Few windows: how the result is read does not depend on how good it is.
    *:*) method=${3#*:} options+=(--method "$method" --num-samples 16 --calibration sample) ;;
    mixed*) ;;
    *) options+=(--method rtn) ;;
  esac
  rm -rf "$out" "$work"/theirs* "$work"/ours*
  sluice "$label" quantize "$source" "${options[@]}" --output "$out" --device "$device" || return 0
  sluice "$label" verify "$out" || true
  # compressed-tensors and bitsandbytes quantize the original again, and can make only the nearest codes.
  case $3 in
    *@*) step "$label: bytes" "$python" "$peers/same_bytes.py" "$out" "$source" --label "$label" || true ;;
    *:*) ;;
    *) step "$label: bytes" "$python" "$peers/same_bytes.py" "$out" "$source" --label "$label" || true ;;
  esac
  local nearest=(--source "$source")
  [ "$method" = rtn ] || nearest=()
  step "$label: opening" "$python" "$peers/open_checkpoint.py" "$out" "$window" "$work/theirs" \
    "${nearest[@]}" --label "$label" --threads "$threads" || true
  [ -f "$work/theirs.json" ] || return 0
  step "$label: logits" deno run -A "$peers/logits.ts" "$out" "$window" "$work/theirs.json" "$work/ours" "$device" || return 0
  step "$label: comparing" "$python" "$peers/compare.py" "$work/theirs.json" "$work/ours.json" --label "$label" || true
}

# One model of each architecture in every format; the loader table's "yes" must open.
open_architectures() {
  local names=()
  [ "$architectures" = all ] || read -r -a names <<< "$architectures"
  mkdir -p "$work/tiny" "$work/opened"
  step "tiny models: making" "$python" "$peers/models/tiny_models.py" "$work/tiny" "${names[@]}" || return 0
  step "tiny models: quantizing" deno run -A "$peers/architectures.ts" "$work/tiny" "$work/opened" || return 0
  step "tiny models: opening" "$python" "$peers/architectures.py" "$work/tiny" "$work/opened" || true
}

for name in $models; do
  case $name in
    none) continue ;;
    sample) source=sample/model ;;
    smollm2-135m)
      source=$cache/smollm2-135m
      if [ ! -f "$source/tokenizer_config.json" ]; then # the last file it writes
        rm -rf "$source"
        "$python" "$peers/models/make_smollm2.py" "$source"
      fi
      ;;
    *)
      echo "There is no model \"$name\" here: SLUICE_PEERS_MODELS may name sample and smollm2-135m, or none." >&2
      exit 2
      ;;
  esac
  for scheme in $schemes; do open_with_peers "$name" "$source" "$scheme"; done
done

[ "$architectures" = none ] || open_architectures

mkdir -p "$work/published"
step "published" deno run -A "$peers/published.ts" "$python" "$work/published" || true

# What Kubernetes would refuse of a job for it.
if sluice "kubernetes" plan sample --scheme NF4 --device wasm --work-dir "$work/job"; then
  deno run -A cli.ts cluster kubernetes "$work/job" > "$work/job.yaml" || true
  step "kubernetes: schema" "$python" "$peers/kubernetes.py" "$work/job.yaml" || true
fi

passed=$(grep -c '^ok' "$work/lines" || true)
failed=$(grep -c '^FAIL' "$work/lines" || true)
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]

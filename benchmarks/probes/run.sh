#!/bin/bash
# Builds the probes (in parallel) and runs them on the GPU of this machine: tables to stdout, all of it to OUT/probes.log,
# numbers to OUT/probes.csv. Usage: benchmarks/probes/run.sh [OUT]
set -u
cd "$(dirname "$0")"
out=$(realpath -m "${1:-build}")
build=$(mktemp -d)
mkdir -p "$out"
csv=$out/probes.csv log=$out/probes.log
echo "probe,case,measure,value,unit,predicted" > "$csv"
: > "$log"
compile() { # program source defines
  local name=$1 source=$2
  shift 2
  "${NVCC:-nvcc}" -DNDEBUG -std=c++20 -O3 -gencode arch=compute_90a,code=sm_90a -Xptxas -v "$@" -o "$build/$name" "$source" \
    > "$build/$name.build" 2>&1 || { echo "BUILD FAILED: $name"; grep -m 5 -E "error|fatal" "$build/$name.build"; }
}
began=$SECONDS
programs="rates qk_64_3 qk_64_2 qk_64_4 qk_64_2x2 gather cursors list_backward_64 qk_128_3 qk_128_2 qk_128_4 qk_128_2x2 list_backward_128"
compile rates rates.cu &
compile gather gather.cu &
compile cursors cursors.cu &
for d in 64 128; do
  compile list_backward_$d list_backward.cu -DHEAD_DIM=$d &
  for groups in 2 3 4; do compile qk_${d}_$groups qk_sweep.cu -DHEAD_DIM=$d -DGROUPS=$groups -DBLOCKS=1 & done
  compile qk_${d}_2x2 qk_sweep.cu -DHEAD_DIM=$d -DGROUPS=2 -DBLOCKS=2 &
done
wait
echo "built in $((SECONDS - began)) s; $(nvidia-smi --query-gpu=name,clocks.sm,power.draw,driver_version --format=csv,noheader)"
grep -hE "C75[0-9]{2}" "$build"/*.build
if command -v cuobjdump > /dev/null; then
  for kind in VIMNMX3 VIMNMX FMNMX; do
    echo "$kind in rates: $(cuobjdump --dump-sass "$build/rates" | grep -cE "[^A-Z]$kind[. ]")"
  done
  echo "HGMMA in qk_64_3, qk_128_3: $(for d in 64 128; do cuobjdump --dump-sass "$build/qk_${d}_3" | grep -c HGMMA; done | xargs)"
fi
for name in $programs; do
  [ -x "$build/$name" ] || continue
  [ $((SECONDS - began)) -lt 210 ] || { echo "== $name: left out, 210 s are over"; continue; }
  from=$SECONDS
  timeout 30 "$build/$name" "$csv" > "$build/$name.out" 2>&1
  code=$?
  { echo "== $name: exit $code, $((SECONDS - from)) s"; cat "$build/$name.out"; } >> "$log"
  case $name in
    qk_*) echo "== $name: exit $code, $((SECONDS - from)) s, $(grep -c '| ' "$build/$name.out") rows," \
      "$(grep -c ' BAD ' "$build/$name.out") bad$(grep -q 'NOT RES' "$build/$name.out" && echo ', one block resident')"
      grep -E ' BAD |error|CUDA' "$build/$name.out" | head -6 ;;
    *) echo "== $name: exit $code, $((SECONDS - from)) s"; cat "$build/$name.out" ;;
  esac
done
python3 table.py "$csv"
echo "all in $((SECONDS - began)) s"
rm -r "$build"

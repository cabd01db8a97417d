#!/bin/bash
# Builds r1.cu for 2, 3, 4 consumer groups and runs it: tables to stdout, all of it to OUT/r1.log, numbers to OUT/r1.csv.
# Usage: benchmarks/probes/run_r1.sh [OUT]
set -u
cd "$(dirname "$0")"
out=$(realpath -m "${1:-build}")
build=$(mktemp -d)
mkdir -p "$out"
echo "probe,case,measure,value,unit,predicted" > "$out/r1.csv"
: > "$out/r1.log"
began=$SECONDS
for groups in 3 2 4; do
  "${NVCC:-nvcc}" -DNDEBUG -std=c++20 -O3 -gencode arch=compute_90a,code=sm_90a -Xptxas -v -DGROUPS=$groups \
    -o "$build/r1_$groups" r1.cu > "$build/r1_$groups.build" 2>&1 ||
    { echo "BUILD FAILED: $groups"; grep -m 5 -E "error|fatal" "$build/r1_$groups.build"; } &
done
wait
cat "$build"/*.build >> "$out/r1.log"
echo "built in $((SECONDS - began)) s; $(nvidia-smi --query-gpu=name,clocks.sm,power.draw --format=csv,noheader)"
grep -hE "C75[0-9]{2}" "$build"/*.build | head -3
for groups in 3 2 4; do
  [ -x "$build/r1_$groups" ] || continue
  [ $((SECONDS - began)) -lt 110 ] || { echo "== W $groups: left out, 110 s are over"; continue; }
  from=$SECONDS
  timeout 40 "$build/r1_$groups" "$out/r1.csv" > "$build/r1_$groups.out" 2>&1
  code=$?
  cat "$build/r1_$groups.out" >> "$out/r1.log"
  echo "== W $groups: exit $code, $((SECONDS - from)) s, $(grep -c ' BAD ' "$build/r1_$groups.out") lines with BAD"
  awk '/^TABLE/ {on = 1} /^[234] D64/ {on = 0} on' "$build/r1_$groups.out"
  [ $code = 0 ] || grep -E '^[234] D64' "$build/r1_$groups.out" | cut -c1-110
  grep -E 'error|CUDA|\.(hpp|cu):[0-9]' "$build/r1_$groups.out" | head -4
done
echo "all in $((SECONDS - began)) s"
rm -r "$build"

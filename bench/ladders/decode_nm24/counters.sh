#!/usr/bin/env bash
# Hardware counters of the kernels for up to 64 tokens, by Nsight Compute: counters.sh FOLDER, with `ladder` built beside
# this file. FOLDER gets a CSV a shape for counters.py. Clocks stay as they are; each kernel finds cold caches.
set -euo pipefail
mkdir -p "$1"
metrics=(
  gpu__time_duration.sum
  dram__bytes_read.sum
  dram__bytes_write.sum
  dram__throughput.avg.pct_of_peak_sustained_elapsed
  lts__t_sectors_op_read.sum
  sm__throughput.avg.pct_of_peak_sustained_elapsed
  sm__warps_active.avg.pct_of_peak_sustained_active
  launch__registers_per_thread
  launch__grid_size
)
while read -r shape; do
  # shellcheck disable=SC2086 # three arguments
  ncu --clock-control none --csv --metrics "$(IFS=,; echo "${metrics[*]}")" -k "regex:decode_kernel|wide_kernel" \
    --launch-skip 2 --launch-count 3 "$(dirname "$0")/ladder" $shape >"$1/ncu-${shape// /-}.csv" </dev/null
done <<'SHAPES'
4096 4096 1
4096 4096 8
6144 4096 8
14336 4096 1
14336 4096 8
14336 4096 16
28672 4096 1
28672 4096 8
28672 4096 64
4096 14336 1
4096 14336 8
SHAPES

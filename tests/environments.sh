#!/usr/bin/env bash
# Run the suite in each environment that its outcome must not depend on: instructions, cores, locale, time zone, hash seed,
# order, a normal user and a checkout that cannot be written. Arguments go to pytest: tests/environments.sh tests/unit
set -euo pipefail
cd "$(dirname "$0")/.."
PYTEST=("$PWD/.venv/bin/python" -m pytest -p no:benchmark -q)
PARALLEL=(--numprocesses "${NUMPROCESSES:-auto}")

told() { echo; echo "== $1"; }

told "no bfloat16 and no AVX-512 instructions, one thread of arithmetic"
ATEN_CPU_CAPABILITY=avx2 ONEDNN_MAX_CPU_ISA=AVX2 OMP_NUM_THREADS=1 "${PYTEST[@]}" "${PARALLEL[@]}" "$@"

told "one core"
taskset --cpu-list 0 "${PYTEST[@]}" --numprocesses 1 "$@"

told "another locale, time zone and hash seed, in random order"
LC_ALL=C TZ=Pacific/Chatham PYTHONHASHSEED=7 "${PYTEST[@]}" "${PARALLEL[@]}" \
  --random-order --random-order-seed="${ORDER_SEED:-$RANDOM}" "$@"

told "a normal user, in a checkout that cannot be written"
if [ "$(id -u)" != 0 ]; then
  echo "this is a normal user already; what is left is the checkout"
fi
copy=$(mktemp -d)
trap 'chmod -R u+w "$copy"; rm -rf "$copy"' EXIT
git ls-files -z | xargs -0 cp --parents --target-directory "$copy"
ln -s "$PWD/.venv" "$copy/.venv"
chmod -R a+rX,a-w "$copy"
chmod a+rx "$copy"
normal=()
if [ "$(id -u)" = 0 ]; then # it may read the interpreter wherever it lies, and write nowhere
  normal=(setpriv --reuid 65534 --regid 65534 --clear-groups --inh-caps +dac_read_search --ambient-caps +dac_read_search)
fi
(cd "$copy" && PYTHONDONTWRITEBYTECODE=1 PYTHONPATH="$copy" HOME=/nonexistent "${normal[@]}" \
  "${PYTEST[@]}" -p no:cacheprovider "${PARALLEL[@]}" "$@")

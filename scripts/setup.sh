#!/usr/bin/env bash
# Makes or repairs .venv; says nothing and takes no time when it is as it should be. Called by the Makefile.
#
#   PYTHON      the interpreter to use (default: the first of python3, python3.11 and later that will do)
#   CMAKE_ARGS  how to build llama.cpp (default: CUDA where a driver and nvcc work, else for the CPU)
set -euo pipefail
cd -P "$(dirname "$0")/.."

venv=.venv
stamp=$venv/.ready       # written last; holds what the environment was made from
built=$venv/.llama-build # the CMAKE_ARGS that llama-cpp-python in it was built with
log=$venv/setup.log

die() { printf 'make setup: %s\n' "$@" >&2; exit 1; }

# nvcc may be there without a card, so the driver has the last word; a broken driver may hang.
cmake_args() {
  if [ -n "${CMAKE_ARGS:-}" ]; then echo "$CMAKE_ARGS"
  elif command -v nvcc >/dev/null && timeout 20 nvidia-smi -L 2>/dev/null | grep -q '^GPU'; then echo "-DGGML_CUDA=on"
  fi
}

# A moved or copied tree is not ready: an environment holds absolute paths.
recipe() { printf '%s\n' "$PWD" "llama.cpp: $args" "$(cksum <pyproject.toml)" "$(cksum <scripts/setup.sh)"; }
is_ready() { [ "$(cat $stamp 2>/dev/null)" = "$(recipe)" ] && $venv/bin/python -c '' 2>/dev/null; }

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.11 python3.12 python3.13 python3.14}; do
    if is_new_enough "$candidate"; then command -v "$candidate"; return; fi
  done
  die "no Python 3.11 or later found${PYTHON:+ as PYTHON=$PYTHON}." \
      "Install one (Debian, Ubuntu: apt install python3 python3-venv) or name it: make PYTHON=/path/to/python3.12"
}

can_mend() {
  is_new_enough $venv/bin/python && $venv/bin/python -m pip --version >/dev/null 2>&1 && grep -qF "$PWD/$venv" $venv/bin/activate
}

make_venv() {
  local python
  python=$(find_python)
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    die "$python comes without venv and ensurepip. Install them (Debian, Ubuntu: apt install python3-venv)."
  echo "make setup: making $venv with $("$python" --version)"
  rm -rf $venv
  "$python" -m venv $venv
}

pulse=
still() {
  [ -z "$pulse" ] || kill "$pulse" 2>/dev/null || true
  pulse=
}
trap still EXIT
trap 'exit 130' INT

# Runs a long command with its output in the log, and a line from us every 15 seconds.
patiently() {
  local what=$1 began=$SECONDS failed=0; shift
  echo "make setup: $what"
  while sleep 15 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do # $$ is the script, also in here
    printf 'make setup: ... still at it after %d min %02d s\n' $(((SECONDS - began) / 60)) $(((SECONDS - began) % 60))
  done 9<&- &
  pulse=$!
  "$@" >>$log 2>&1 || failed=$?
  still
  [ $failed = 0 ] && return
  tail -n 30 $log >&2
  die "failed with status $failed; all of it is in $log." "After mending the cause run make again: it goes on from here."
}

pip() { $venv/bin/python -m pip --no-input --disable-pip-version-check "$@"; }

has_gpu_code() { $venv/bin/python -c 'import sys, llama_cpp; sys.exit(not llama_cpp.llama_supports_gpu_offload())' >>$log 2>&1; }
has_llama() { $venv/bin/python -c 'import llama_cpp' >>$log 2>&1; }

# pip keeps the wheels it builds but not how it built them. So whatever is built in a special way neither takes a
# kept wheel nor leaves one; and a kept one that turns out to be special (pip used by hand) is built anew.
install() {
  local fresh=(--no-cache-dir --no-binary llama-cpp-python)
  if [ "$(cat $built 2>/dev/null)" != "$args" ] || ! has_llama; then
    pip uninstall --yes llama-cpp-python >>$log 2>&1
  fi
  if [ -n "$args" ]; then
    CMAKE_ARGS=$args patiently "building llama.cpp with $args and installing the rest: about 10 minutes" \
      pip install "${fresh[@]}" --editable . --group dev
  else
    patiently "installing; the first time llama.cpp is built for this CPU, which takes 5 to 10 minutes" \
      pip install --editable . --group dev
    if has_gpu_code || ! has_llama; then
      patiently "pip's kept build of llama.cpp is not for this machine's CPU; building it: 5 to 10 minutes" \
        pip install "${fresh[@]}" --force-reinstall --no-deps "$(pip freeze | grep '^llama.cpp.python==')"
    fi
  fi
  has_llama || die "llama-cpp-python is installed but cannot be loaded; the reason is at the end of $log."
  if [ -n "$args" ] && ! has_gpu_code; then
    echo "make setup: llama.cpp was built with $args but sees no GPU now (CUDA_VISIBLE_DEVICES?); it will use the CPU" >&2
  fi
  echo "$args" >$built
}

args=$(cmake_args)
if is_ready; then exit 0; fi

exec 9<pyproject.toml
if command -v flock >/dev/null; then flock 9; fi # another make is at it: wait, and look again
if is_ready; then exit 0; fi

command -v "${CXX:-c++}" >/dev/null || command -v g++ >/dev/null || command -v clang++ >/dev/null ||
  die "no C++ compiler found, and llama.cpp is built from source." "Install one (Debian, Ubuntu: apt install g++)."
can_mend 2>/dev/null || make_venv
rm -f $stamp
: >$log
patiently "bringing pip up to date" pip install --upgrade 'pip>=25.1'
install
recipe >$stamp
echo "make setup: $venv is ready"
